"""What `salver bench` refuses before it does anything."""

from tests.cli.commands import salver


def test_a_cold_start_has_no_objective() -> None:
    """`--fail-on-slo` beside `--cold` is wrong usage, rather than never failing."""
    done = salver("bench", "churn", "--cold", "--fail-on-slo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "leave --fail-on-slo out" in done.stderr
