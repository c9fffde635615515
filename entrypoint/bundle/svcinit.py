# What the launcher has the interpreter run. -I: none of the app's PYTHON* variables, user site or working directory
# reaches it; -S: no site-packages either. The app's own Python gets all of them untouched.
import sys

sys.dont_write_bytecode = True
sys.path.append("/opt/svcinit/lib")

from svcinit.__main__ import main  # noqa: E402

main()
