"""Prints how large the code has grown, room by room, and fails over the limits."""

import ast
import sys
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src" / "salver"
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 80
MAX_FILE_P90 = 250
MAX_FUNCTION_P90 = 30
MAX_PARAMETERS = 6
LONG_FUNCTION_LINES = 50

Function = ast.FunctionDef | ast.AsyncFunctionDef


def p90(values: list[int]) -> int:
    """Return the value that nine of ten do not exceed."""
    return sorted(values)[int(0.9 * (len(values) - 1))] if values else 0


def parameters(function: Function) -> int:
    """Count the parameters a caller fills in."""
    arguments = function.args
    names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def main() -> int:
    """Print the ledger; 1 when a limit is broken."""
    files = {path: path.read_text() for path in sorted(SOURCE.rglob("*.py"))}
    lines = {path: text.count("\n") for path, text in files.items()}
    functions: list[tuple[int, str]] = []
    broken: list[str] = []
    for path, text in files.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, Function):
                size = (node.end_lineno or node.lineno) - node.lineno + 1
                where = f"{path.relative_to(SOURCE)}:{node.lineno} {node.name}"
                functions.append((size, where))
                commands = path.is_relative_to(SOURCE / "cli")
                if parameters(node) > MAX_PARAMETERS and not commands and node.name != "__init__":
                    broken.append(f"{where} takes {parameters(node)} parameters")
    rooms: dict[str, int] = {}
    for path, count in lines.items():
        parts = path.relative_to(SOURCE).parts
        rooms[parts[0]] = rooms.get(parts[0], 0) + count
    for room, count in rooms.items():
        print(f"{room:<16}{count:>7}")
    sizes = [size for size, _ in functions]
    long_share = 100 * sum(size > LONG_FUNCTION_LINES for size in sizes) / max(len(sizes), 1)
    print(f"files: {len(files)}, lines {sum(lines.values())}, p90 {p90(list(lines.values()))}")
    print(f"functions: {len(sizes)}, p90 {p90(sizes)}, over 50 lines {long_share:.1f} %")
    broken += [
        f"{p.relative_to(SOURCE)} has {n} lines" for p, n in lines.items() if n > MAX_FILE_LINES
    ]
    broken += [
        f"{where} has {size} lines" for size, where in functions if size > MAX_FUNCTION_LINES
    ]
    if p90(list(lines.values())) > MAX_FILE_P90:
        broken.append(f"file p90 is over {MAX_FILE_P90}")
    if p90(sizes) > MAX_FUNCTION_P90:
        broken.append(f"function p90 is over {MAX_FUNCTION_P90}")
    for line in broken:
        print(f"over the limit: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
