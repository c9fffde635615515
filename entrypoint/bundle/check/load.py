"""Load every library of the bundle, while Dockerfile.base is built, in an image where there is nothing else.

What is missing, or was broken on the way (by patchelf, by strip), ends the build. The last name printed is its name.
"""

import importlib
import marshal
import pathlib
import pkgutil
import sys

HOME = pathlib.Path("/opt/svcinit")
NEEDED = "_ctypes", "ssl", "dns", "jinja2", "prometheus_client", "psutil", "requests", "yaml"  # be they found or not
OPTIONAL = {"svcinit.ctl.fleet.live"}  # it needs rich, which is not in the bundle


def main() -> None:
    sys.path.append(str(HOME / "lib"))
    (standard,) = (HOME / "python" / "lib").glob("python3*/lib-dynload")
    importlib.import_module("svcinit.agent")  # from here on modules come from the import-cache
    for name in (*NEEDED, *extensions(standard), *extensions(HOME / "lib"), *third_party(), *own()):
        print(name, end=" ", flush=True)  # a broken one may kill this process
        importlib.import_module(name)
    if type(sys.modules["requests"].__loader__).__module__ != "svcinit.agent.imports":
        sys.exit(f"\n{HOME}/lib/import-cache is not used: was it made by this Python, in this folder?")
    exec(marshal.loads((HOME / "python" / "svcinit.pyc").read_bytes()[16:]), {"__name__": "checked"})
    if type(getattr(sys.modules.get("svcinit.__main__"), "__loader__", None)).__name__ != "Finder":
        sys.exit(f"\n{HOME}/lib/init-cache is not used: was it made by this Python?")
    print(f"\nall loaded by Python {sys.version.split()[0]}")


def extensions(folder: pathlib.Path) -> list[str]:
    """The modules below a folder that are shared libraries."""
    found = (path.relative_to(folder) for path in folder.glob("**/*.so"))
    return sorted(".".join([*path.parent.parts, path.name.split(".")[0]]) for path in found)


def third_party() -> list[str]:
    return [found.name for found in pkgutil.iter_modules([str(HOME / "lib")])]


def own() -> list[str]:
    found = pkgutil.walk_packages([str(HOME / "lib" / "svcinit")], "svcinit.")
    return [each.name for each in found if each.name not in OPTIONAL]


if __name__ == "__main__":
    main()
