"""`make demo-local`: a service that a file configures, without Consul or Docker; it follows the edits of the file."""

from __future__ import annotations

import pathlib
import shutil
import sys
import tempfile

from testing.process import running
from testing.waiting import eventually
from tools.demo import ROOT, proves, say, show, step

EXAMPLE = ROOT / "examples" / "laptop"
TARGET = pathlib.Path("/tmp/svcinit-laptop/hello.ini")
SERVICE = "trap 'echo the service got a HUP' HUP; trap 'exit 0' TERM; while :; do read -rt 100 <> <(:); done"


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="svcinit-demo-local-") as name:
        folder = pathlib.Path(name)
        source = folder / "source.yaml"
        shutil.copy(EXAMPLE / "source.yaml", source)
        env = {
            "SVCINIT_SOURCE": f"file:{source}", "SVCINIT_TEMPLATES": str(EXAMPLE / "templates"),
            "SVCINIT_SERVICE": "hello", "SVCINIT_WATCH": "1", "SVCINIT_SETTLE": "0s",
        }  # fmt: skip
        step(1, "A service starts; a file replaces Consul")
        show(source.read_text())
        with running(folder / "svcinit", "bash", "-c", SERVICE, env=env) as svcinit:
            svcinit.says("started")
            show(TARGET.read_text())
            proves("svcinit rendered the file before it started the service")
            step(2, "The file is edited")
            source.write_text(source.read_text().replace("Hello", "Good morning").replace("10.0.0.6", "10.0.0.7"))
            eventually(lambda: "Good morning" in TARGET.read_text(), "the rendered file follows")
            svcinit.says("the service got a HUP")
            show(TARGET.read_text())
            proves("svcinit rendered the file again and sent HUP to the service")
            step(3, "The service is stopped")
            code = svcinit.stop()
            show(svcinit.err)
            proves(f"exit status {code}")
    shutil.rmtree(TARGET.parent, ignore_errors=True)
    say("\nWith CONSUL_HTTP_ADDR in place of SVCINIT_SOURCE, the same service uses Consul: make demo")
    return code


if __name__ == "__main__":
    sys.exit(main())
