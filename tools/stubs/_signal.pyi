# The C module under `signal`, which typeshed leaves out: the same names, without the enums.
from signal import *  # noqa: F403
from signal import struct_siginfo as struct_siginfo
