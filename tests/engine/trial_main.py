"""A process that loads one version and knows the runtimes of these tests as well."""

import tests.engine.worker_main  # noqa: F401 - it makes them known
from salver.engine.trial_child import main

if __name__ == "__main__":
    main()
