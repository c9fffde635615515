# `svcinitctl`: see svcinit.py beside this file.
import sys

sys.dont_write_bytecode = True
sys.path.append("/opt/svcinit/lib")

from svcinit.ctl.cli import main  # noqa: E402

main()
