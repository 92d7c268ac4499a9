"""A process that does nothing, for long enough."""

import time

if __name__ == "__main__":
    time.sleep(120)
