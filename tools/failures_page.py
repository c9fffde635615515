"""Write docs/failures.md: what happens when something fails, with what tests/chaos measured of it (docs/chaos.md).

By `make docs`, after a run of that suite; a unit test tells when the page is stale.
"""

from __future__ import annotations

import pathlib

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGE, CHAOS = DOCS / "failures.md", DOCS / "chaos.md"
HEAD = """# What happens when something fails

<!-- Made by tools/failures_page.py, with the figures of docs/chaos.md: change it there. -->

The service serves on. That is the rule behind every row: what svcinit cannot do now it tries again, and says so.
The figures are those of a run of [the chaos suite](chaos.md), which tells how they were taken: what a client saw that
looks the service up over DNS before each of its requests. `right again`: from the end of the fault, or, where it has
none, from the fault, until the catalog says exactly what is true.

"""
FIGURES = "| what goes wrong | what happens | failed of | longest gap | right again |\n|---|---|--:|--:|--:|\n"
PLAIN = "| what goes wrong | what happens |\n|---|---|\n"
RUNNING = (  # (row of docs/chaos.md, what goes wrong, what happens)
    ("the leader is killed", "the leader of Consul's servers dies", "nothing: the agent still answers"),
    ("two of three servers are killed and come back", "Consul has no quorum",
     "a HUP is forwarded on the files in place: new code goes out; `degraded`"),
    ("the local agent is restarted with its data", "the agent restarts", "asked at once, and again until it answers"),
    ("the local agent is restarted without its data", "the agent restarts without its data, or is edited by hand",
     "registered again, or what differs set right, within `SVCINIT_SYNC_INTERVAL`; maintenance mode stays"),
    ("the local agent hangs for 30 s", "the agent hangs",
     "calls have deadlines; a HUP is forwarded on the files in place; meanwhile its node counts as failed"),
    ("the network of the service is cut and mended", "the network of the container is cut",
     "Consul finds it critical; once mended, passing by the next probe"),
    ("the dns port is dead and http is alive", "Consul's DNS is away",
     "at a reload as if Consul were: files stay, a HUP is forwarded, `degraded`"),
    ("the http port is dead and dns is alive", "the agent's HTTP is away",
     "stays registered as it was; told once, tried again; reloads as above"),
    ("consul answers with half an answer", "an answer breaks off", "as if Consul were away"),
    ("consul answers with no json", "an answer is no JSON", "as if Consul were away"),
    ("consul answers with json of another shape", "an answer is JSON of another shape", "as if Consul were away"),
    ("consul answers with 50 mb", "an answer is far too long", "as if Consul were away; it is not read to its end"),
    ("consul answers with a delay of 10 s", "answers come late", "no call waits longer than its step may take"),
    ("the token is revoked and given back", "the token is revoked",
     "told, with the rule that is needed; stays registered; set right when the token is valid again"),
    ("presence is killed", "the registering process dies", "started again with backoff; finds itself registered"),
    ("presence is stopped", "the registering process hangs", "killed and started again; finds itself registered"),
    ("prepare is killed", "the rendering process dies half way", "started again; no file is half of one"),
    ("prepare is stopped", "the rendering process hangs", "killed and started again"),
    ("svcinit is killed and the container started again", "svcinit itself is killed, with its container",
     "its registration turns critical; the next start at the same address and port removes it"),
    ("the clock jumps by a day both ways", "the clock jumps", "nothing: deadlines are on the monotonic clock"),
    ("the disk is full at a render and at the write of the cache", "the disk is full",
     "the reload is aborted with all files as they were; a cache that cannot be written stays as it was"),
)  # fmt: skip
ELSE = (
    ("Consul is away at the start", "tried again with full jitter until `SVCINIT_START_TIMEOUT`; then started from the "
     "cache, `degraded`, or exit 69"),
    ("a template error, a missing key, a failed check command",
     "at the start exit 78; at a reload nothing is written, nobody is told; `degraded`"),
    ("a KV value or a rendered argument is larger than the kernel takes (131,071 bytes, or too much together)",
     "at the start exit 78; at a reload, `restart` too, nothing is changed, the service stays; `degraded`"),
    ("a fifo, a device or a directory stands where a file should be (`X_FILE`, a certificate, the source)",
     "exit 78, naming it; the cache: not used. Nothing waits for it"),
    ("a prefix or peer set that had entries is empty", "as if Consul were away: recovering servers answer so; "
     "`SVCINIT_ALLOW_EMPTY=1` if it is meant"),
    ("the service's user puts a link or a directory of its own in the way of a target",
     "as a template error: refused, with its owner named; see [security](security.md)"),
    ("the service does not become ready (`SVCINIT_READY`) in time", "stopped, never registered, exit 69"),
    ("the service fails `SVCINIT_CHECK` after a reload (`SVCINIT_RELOAD_VERIFY`)",
     "former files put back, told again; `degraded`"),
    ("a hook fails", "at the start exit with its status; at a reload the files are put back"),
    ("a preparation, or the whole container, is killed between two renames",
     "the retry, or the next start on the same directories, puts the files back first; then all are rendered anew"),
    ("the disk is too slow for a reload", "the files are put back, the command is not told; `degraded`"),
    ("what tells the command (`SVCINIT_RELOAD`) fails", "`degraded`; the next HUP tells it again"),
    ("the command does not handle the reload signal",
     "it is not sent, for it would end the command; `degraded`, with what to set; the service serves on"),
    ("a HUP or a change comes before the service is ready (`SVCINIT_READY`)", "it is told when it is"),
    ("the container is paused (`docker pause`)", "nothing is killed for being late"),
    ("somebody sends TERM to the registering process", "it is not obeyed: only PID 1's is"),
    ("others put files into the state directory", "they are not read and hold nobody up; svcinit replaces them"),
    ("the command ends by itself", "deregistered; exit with its status (128+N for signal N)"),
    ("it ignores the stop", "KILL after `SVCINIT_STOP_TIMEOUT`, to all that is left"),
    ("Consul is away at the stop", "the command is told after half of `SVCINIT_STOP_TIMEOUT`; deregistering is tried "
     "on; else Consul drops the service after `SVCINIT_DEREGISTER_AFTER`"),
    ("a second stop signal", "skips the drain; a third one kills"),
    ("the container is at its limit of processes", "the reload is tried for `SVCINIT_RELOAD_TIMEOUT`, then aborted; a "
     "dead presence is started again with backoff; the service serves on. At the stop deregistering is tried again, at "
     "the latest when the service's end makes room"),
    ("svcinit has no descriptors left", "as at the limit of processes; a stop and the service's end are seen in time"),
    ("svcinit's own init fails at something else", "the log has `internal error`; what failed is tried again, for a "
     "stop until 0.9 s after `SVCINIT_STOP_TIMEOUT`; then everything is killed, and svcinit exits"),
    ("`SVCINIT_POST_STOP` hangs", "killed 0.8 s after `SVCINIT_STOP_TIMEOUT`, so that all of a stop fits into 10 s"),
    ("there is no process left for a probe of svcinit's own",
     "the check is critical with `not probed` until the next probe works; svcinit stays, and deregisters at the stop"),
    ("a check command or probe hangs", "killed at its deadline, with all processes that it started"),
    ("a check command or probe prints endlessly", "its end is kept, the rest takes no memory; killed at its deadline"),
    ("Consul asks to be left alone for hours (`Retry-After`)",
     "asked again within 30 s, at a start within 5 s, until `SVCINIT_START_TIMEOUT`"),
    ("the log's pipe is full: its reader is slow or hangs", "lines are dropped, and the next line that gets through "
     "has their number (`lines_dropped`); nothing waits for a log, a stop is as fast as ever"),
    ("nobody reads the terminal (`docker run -t`)", "the same"),
    ("the log's reader is gone, or its file is at its limit of size", "the lines are lost; no signal is sent to the "
     "command, start, reload and exit status are as ever"),
    ("stdout or stderr is closed", "it stays closed for the command; no exit status changes"),
    ("the metrics have no file descriptor left",
     "the oldest connection is closed, or the scrape waits; no CPU time is used meanwhile"),
    ("the state directory cannot be written", "svcinit runs on; `svcinitctl` finds nothing"),
    ("the command goes into the background", "its end ends the container, and the log says why"),
    ("command not found, not executable", "127, 126"),
)  # fmt: skip


def measured() -> dict[str, list[str]]:
    """The cells of each row of docs/chaos.md: served, failed, not in DNS, longest gap, right after."""
    rows = [line.strip("| ").split(" | ") for line in CHAOS.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def page() -> str:
    """Raises KeyError for a row that the run did not have, ValueError for one of the run that is missing here."""
    figures = measured()
    missing = set(figures) - {name for name, _, _ in RUNNING}
    if missing:
        raise ValueError(f"docs/chaos.md has more than RUNNING: {missing}")
    text = HEAD + "## While it runs\n\n" + FIGURES
    for name, wrong, happens in RUNNING:
        served, failed, _, gap, right = figures[name]
        text += f"| {wrong} | {happens} | {failed} of {int(served) + int(failed)} | {gap} | {right} |\n"
    text += "\n## At the start, at a reload, at the stop\n\n" + PLAIN
    return text + "".join(f"| {wrong} | {happens} |\n" for wrong, happens in ELSE)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
