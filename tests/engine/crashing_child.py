"""Stands in for a library that a damaged file makes crash."""

import os
import signal

os.kill(os.getpid(), signal.SIGSEGV)
