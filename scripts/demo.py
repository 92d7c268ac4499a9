"""`make serve`: trains one model, takes one from a wheel, serves both, and says what to try.

The state lies in `.demo` of this checkout. Ctrl-C ends the server, as `salver stop` does elsewhere.
"""

import argparse
import json
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import skops.io
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

import salver
from salver.cli.stop import runs

ROOT = Path(__file__).parent.parent
SALVER = Path(sys.executable).with_name("salver")
MAGIKA_BYTES = 2048
_PADDING = 256
_POLL_S = 0.25
# Else what commands print comes first, where this does not go to a terminal.
say = partial(print, flush=True)


def main() -> None:
    """Start, push, deploy, ask, and stay until Ctrl-C (or return at once with --once)."""
    options = _parse()
    home: Path = options.home.absolute()
    home.mkdir(parents=True, exist_ok=True)
    ports = ["--http-port", str(options.http_port), "--control-port", str(options.control_port)]
    _salver("up", "--home", str(home), *ports, "--detach")
    try:
        with salver.Client(home=home) as client:
            _serve(client, _tumour(home), home / "models" / "tumour.json")
            _serve(client, _magika(home), home / "models" / "magika.json")
            _try(client, home)
        if not options.once:
            _follow(home)
    except KeyboardInterrupt:
        say("\nstopping")
    finally:
        if runs(home):
            _salver("stop", "--home", str(home))


def _follow(home: Path) -> None:
    """Show what the server logs until it has ended; whoever stopped it meant this, too."""
    command = [str(SALVER), "logs", "--home", str(home), "--follow", "--lines", "1"]
    with subprocess.Popen(command) as logs:
        try:
            while runs(home) and logs.poll() is None:
                time.sleep(_POLL_S)
        finally:
            logs.terminate()
    if runs(home):
        sys.exit(logs.returncode)
    if (home / "run" / "supervisor.json").exists():
        # A server that is stopped removes it.
        sys.exit("the server was killed, so this ends")
    say("the server was stopped, so this ends")


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path, default=ROOT / ".demo")
    parser.add_argument("--http-port", type=int, default=8080)
    parser.add_argument("--control-port", type=int, default=8090)
    parser.add_argument("--once", action="store_true", help="stop when both models have answered")
    return parser.parse_args()


def _tumour(home: Path) -> Path:
    """Train a classifier on scikit-learn's breast-cancer data and save it with skops."""
    folder = home / "models" / "tumour"
    folder.mkdir(parents=True, exist_ok=True)
    data = load_breast_cancer()
    train, held_out, labels, truth = train_test_split(data.data, data.target, random_state=0)
    model = RandomForestClassifier(50, random_state=0, n_jobs=1).fit(train, labels)
    say(f"trained tumour: {model.score(held_out, truth):.1%} right on held-out data")
    path = folder / "tumour.skops"
    skops.io.dump(model, path)
    names = [name.replace(" ", "_") for name in data.feature_names]
    rows = [dict(zip(names, row, strict=True)) for row in held_out[:3].tolist()]
    (home / "models" / "tumour.json").write_text(json.dumps(rows))
    return path


def _magika(home: Path) -> Path:
    """Return the file-type model that Google publishes in the magika wheel."""
    spec = find_spec("magika")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "models" / "standard_v3_3" / "model.onnx"
    content = b"#!/bin/sh\nset -eu\nfor i in 1 2 3; do echo $i; done\n"
    tokens = [*content, *[_PADDING] * (MAGIKA_BYTES - len(content))]
    body: dict[str, Any] = {
        "inputs": [
            {"name": "bytes", "datatype": "INT32", "shape": [1, MAGIKA_BYTES], "data": tokens}
        ]
    }
    (home / "models").mkdir(parents=True, exist_ok=True)
    (home / "models" / "magika.json").write_text(json.dumps(body))
    return path


def _serve(client: salver.Client, path: Path, example: Path) -> None:
    name = example.stem
    version = client.push(path, name, example=example, alias="champion")
    client.deploy(f"{name}@champion")
    say(f"{name}:{version['version']} ({version['runtime']}) answers")


def _try(client: salver.Client, home: Path) -> None:
    rows = json.loads((home / "models" / "tumour.json").read_text())
    answer = client.predict("tumour", rows)
    say(f"three held-out samples: {answer.outputs['label'].tolist()}")
    tokens = json.loads((home / "models" / "magika.json").read_text())["inputs"][0]["data"]
    scores = client.predict("magika", {"bytes": np.array([tokens], np.int32)})
    (target,) = scores.outputs.values()
    say(f"a shell script is file type number {int(target.argmax())}")
    url = client.status()["http_url"]
    say(
        f"""
Try:
  . .venv/bin/activate; export SALVER_HOME={home}
  salver status
  salver get endpoints
  salver predict tumour {home}/models/tumour.json
  curl -s {url}/v2/models/magika/infer -d @{home}/models/magika.json | head -c 300
  salver undeploy magika
Ctrl-C ends the server.
"""
    )


def _salver(*arguments: str) -> None:
    done = subprocess.run([str(SALVER), *arguments], check=False)
    if done.returncode:
        sys.exit(done.returncode)


if __name__ == "__main__":
    main()
