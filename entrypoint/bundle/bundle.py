"""Make of HOME a directory that runs svcinit on any Linux of this architecture: bundle.py HOME.

HOME/lib has the libraries already, of which one is removed: it is not needed. What is added: HOME/python, the
interpreter that runs this with its standard library, all shared libraries that they need and the dynamic loader; the
package, the shared templates, byte code, and HOME/bin with the launchers. Nothing of the image is used then, not even
its libc: the loader's path stands in the interpreter, and the libraries' path in each of them (DT_RPATH, which goes
before LD_LIBRARY_PATH: ld.so(8)).

HOME is where it will lie. Needs ldd, patchelf and a C compiler that can link statically. Exits with 1 and says so when
something that is needed cannot be found.
"""

from __future__ import annotations

import os
import pathlib
import re
import shutil
import subprocess
import sys
import sysconfig

import bill  # beside this file

SOURCES = pathlib.Path(__file__).resolve().parent.parent
PLACE = "/opt/svcinit"  # what stands in the programs
PROGRAMS = {"svcinit": ("-DBLOCK_SIGNALS",), "svcinitctl": ()}
LEFT_OUT = (  # of the standard library: what no server needs, and what nobody here imports
    "__pycache__", "*.a", "config-*", "site-packages", "dist-packages", "EXTERNALLY-MANAGED", "test", "tests", "_test*",
    "_xxtest*", "xxlimited*", "unittest", "__phello__", "ensurepip", "venv", "distutils", "lib2to3",
    "pydoc*", "idlelib", "tkinter", "_tkinter*", "turtle*", "curses", "_curses*", "readline*",
    "dbm", "_dbm*", "_gdbm*", "sqlite3", "_sqlite3*", "ctypes", "_ctypes_test*", "msilib", "nis.*", "ossaudiodev*",
)  # fmt: skip
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)
UNNEEDED = "charset_normalizer*"  # of the libraries: guesses encodings; requests goes without it, and so do we
GLIBC = "lib[cm].so.6", "libnss*", "libpthread.so.*", "libdl.so.*", "librt.so.*", "libutil.so.*"
OPENED_LATE = "libnss_files.so.2", "libnss_dns.so.2"  # by glibc itself, for users' names and DNS: ldd shows them not


def main() -> None:
    home = pathlib.Path(sys.argv[1])
    for folder in (home / "lib").glob(UNNEEDED):
        shutil.rmtree(folder)
    copied = relocate(home / "python", home / "lib")
    shutil.copytree(SOURCES / "svcinit", home / "lib" / "svcinit", ignore=shutil.ignore_patterns("__pycache__", ".*"))
    shutil.copytree(SOURCES.parent / "templates", home / "templates")
    (home / "bin").mkdir()
    for program, flags in PROGRAMS.items():
        text = (SOURCES / "bundle" / f"{program}.py").read_text().replace(PLACE, str(home))
        (home / "python" / f"{program}.py").write_text(text)
        (home / "python" / "bin" / program).symlink_to("python3")
        names = f'-DHOME="{home}"', f'-DPROGRAM="{program}"'
        compiler = shutil.which("musl-gcc") or "cc"  # musl's start is the quicker and the smaller one
        run(
            compiler,
            "-static",
            "-Os",
            "-s",
            *names,
            *flags,
            *os.environ.get("CFLAGS", "").split(),
            "-o",
            home / "bin" / program,
            SOURCES / "bundle" / "launcher.c",
        )
    bill.write(home, VERSION.findall((SOURCES / "svcinit" / "__init__.py").read_text())[0], copied)
    # not checked against its source at each start: neither of them ever changes in an image
    compiles = sys.executable, "-I", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"
    run(*compiles, home / "lib", home / "python" / "lib")
    run(*compiles, "-b", *(home / "python" / f"{program}.py" for program in PROGRAMS))
    cache = SOURCES / "bundle" / "import_cache.py"
    run(home / "python" / "bin" / "python3", "-ISB", "-X", "no_debug_ranges", cache, home / "lib")
    run("chmod", "-R", "u=rwX,go=rX", home)


def relocate(destination: pathlib.Path, third_party: pathlib.Path) -> set[pathlib.Path]:
    """Copy the interpreter, its standard library and the libraries that they and `third_party` need; these files."""
    libraries, binary = destination / "lib", destination / "bin" / "python3"
    standard = pathlib.Path(sysconfig.get_path("stdlib"))
    binary.parent.mkdir(parents=True)
    shutil.copy(pathlib.Path(sys.executable).resolve(), binary)
    shutil.copytree(standard, libraries / standard.name, ignore=shutil.ignore_patterns(*LEFT_OUT))
    extensions = sorted(libraries.glob("**/*.so"))
    needed = {path for file in (binary, *extensions, *third_party.glob("**/*.so")) for path in linked(file)}
    for path in needed:
        shutil.copy(path, libraries / path.name)
    loader = next(file for file in libraries.glob("ld*.so*"))
    # glibc's own parts need nothing but each other, which the interpreter finds for them; they stay as they are
    for file in {*libraries.glob("*.so*"), *extensions} - {
        loader,
        *(path for name in GLIBC for path in libraries.glob(name)),
    }:
        run("patchelf", "--force-rpath", "--set-rpath", libraries, file)
    # two calls, in this order: in one, patchelf 0.18 breaks a program of a fixed address (Debian 13's own python3)
    run("patchelf", "--force-rpath", "--set-rpath", libraries, binary)
    run("patchelf", "--set-interpreter", loader, binary)
    return {pathlib.Path(sys.executable).resolve(), *needed}


def linked(file: pathlib.Path) -> set[pathlib.Path]:
    """The shared libraries that ldd(1) finds for a file, under the names they are asked for, the loader among them."""
    said = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=True).stdout
    if "not found" in said:
        sys.exit(f"{file} is linked against what is not here:\n{said}")
    found = {pathlib.Path(path) for path in re.findall(r"(/\S+) \(0x", said)}
    late = {library.with_name(name) for library in found if library.name == "libc.so.6" for name in OPENED_LATE}
    return found | {library for library in late if library.exists()}


def run(*command: str | pathlib.Path) -> None:
    try:
        subprocess.run(list(map(str, command)), check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{command[0]}: {error}")


if __name__ == "__main__":
    main()
