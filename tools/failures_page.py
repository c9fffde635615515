"""Write docs/failures.md: what happens when something fails, with what tests/chaos measured of it (docs/chaos.md).

By `make docs`, after a run of that suite; a unit test tells when the page is stale.
"""

from __future__ import annotations

import pathlib

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PAGE, CHAOS = DOCS / "failures.md", DOCS / "chaos.md"
HEAD = """# What happens when something fails

<!-- Made by tools/failures_page.py, with the figures of docs/chaos.md: change it there. -->

The service continues to run: this rule is behind every row. svcinit logs each failure and tries again. The figures
are from a run of [the chaos suite](chaos.md). In this run, a client resolves the service by DNS before each request.
`failed requests` and `longest gap` are the results of this client. `recovered after` is the time until Consul's
catalog is correct. It is measured from the end of the failure, or from its beginning if the failure does not end.

If a container ends and starts again and again, see [operations](operations.md#a-container-restarts-again-and-again).

"""
FIGURES = "| failure | what happens | failed requests | longest gap | recovered after |\n|---|---|--:|--:|--:|\n"
PLAIN = "| failure | what happens |\n|---|---|\n"
RUNNING = (  # (row of docs/chaos.md, failure, what happens)
    ("the leader is killed", "the leader of Consul's servers dies", "nothing: the agent still answers"),
    ("two of three servers are killed and come back", "Consul has no quorum",
     "a HUP notifies the service with unchanged files: new code is deployed; `degraded`"),
    ("the local agent is restarted with its data", "the agent restarts",
     "svcinit asks the agent within 3 seconds, each container at a different time, and again until it answers"),
    ("the local agent is restarted without its data", "the agent restarts without its data, or somebody edits its data",
     "svcinit registers the service again, or repairs the differences, within [seconds]"
     "(consul.md#keeping-the-registration-in-sync); maintenance mode stays"),
    ("the local agent hangs for 30 s", "the agent hangs",
     "calls have deadlines; a HUP notifies the service with unchanged files; Consul considers the node failed "
     "meanwhile"),
    ("the network of the service is cut and restored", "the network of the container is cut",
     "the check becomes critical; when the network works again, the next probe passes"),
    ("the dns port is closed and http works", "Consul's DNS is unavailable",
     "a reload leaves the files unchanged and notifies the service; `degraded`"),
    ("the http port is closed and dns works", "the agent's HTTP is unavailable",
     "the registration stays; svcinit logs the error once and tries again; reloads as above"),
    ("consul answers with half an answer", "a response is truncated", "as if Consul were unavailable"),
    ("consul answers with no json", "a response is not JSON", "as if Consul were unavailable"),
    ("consul answers with json of another shape", "a response is JSON of another structure",
     "as if Consul were unavailable"),
    ("consul answers with 50 mb", "a response is far too large",
     "as if Consul were unavailable; svcinit reads at most 64 MiB of a response, or 4 MiB if it has no KV or peers"),
    ("consul answers with a delay of 10 s", "responses are slow", "each call ends within the time limit of its step"),
    ("the token is revoked and restored", "the token is revoked",
     "svcinit logs the missing ACL rule; the registration stays; svcinit repairs it when the token is valid again"),
    ("presence is killed", "the process that registers the service dies",
     "it is restarted with backoff and finds the existing registration"),
    ("presence is stopped", "the process that registers the service hangs",
     "it is killed and restarted, and finds the existing registration"),
    ("prepare is killed", "the process that renders the files dies", "it is restarted; no file is incomplete"),
    ("prepare is stopped", "the process that renders the files hangs", "it is killed and restarted"),
    ("svcinit is killed and the container started again", "svcinit is killed, and the container ends",
     "the check becomes critical; the next start at the same address and port removes the old registration"),
    ("the clock jumps by a day both ways", "the system clock jumps", "nothing: deadlines use the monotonic clock"),
    ("the disk is full at a render and at the write of the cache", "the disk is full",
     "the reload is aborted and all files stay unchanged; a cache that cannot be written stays unchanged too"),
    ("nobody reads the pipe of the log", "the log's pipe is full, because its reader is slow or hangs",
     "svcinit drops lines; the next written line has their number (`lines_dropped`); no step waits for the log, and a "
     "stop takes no longer"),
    ("nobody reads the terminal", "nobody reads the terminal (`docker run -t`)", "the same"),
    ("the container is at its limit of processes", "the container is at its process limit",
     "svcinit tries the reload for `SVCINIT_RELOAD_TIMEOUT`, then aborts it; it restarts a dead presence process with "
     "backoff; the service continues. At a stop, svcinit tries again to deregister, at the latest after the exit of "
     "the service"),
    ("svcinit has no free file descriptor", "svcinit has no free file descriptor",
     "as at the process limit; svcinit still reacts in time to a stop and to the exit of the service"),
    ("the user of the service puts a link in the way",
     "the service's user creates a link or directory on the path of a target",
     "the reload is aborted and all files stay unchanged; the message names the owner; at a start exit 78; see "
     "[security](security.md)"),
    ("the container is killed between two renames and started again",
     "the process that renders the files, or the whole container, is killed between two renames",
     "the retry, or the next start on the same directories, first rolls back the files; then it renders all again"),
)  # fmt: skip
ELSE = (
    ("Consul is unavailable at the start",
     "svcinit tries again with full jitter until `SVCINIT_START_TIMEOUT`; then it starts the service from the cache "
     "(`degraded`), or exits with 69 without a cache"),
    ("Vault is unavailable or sealed at the start",
     "svcinit tries again until `SVCINIT_START_TIMEOUT`; then exit 69, or the secrets of the cache with "
     "`SVCINIT_CACHE_SECRETS=1`"),
    ("Vault is unavailable or sealed later, or its token is revoked",
     "all files stay; svcinit logs `vault_failed` and tries again; a HUP notifies the service with unchanged files (a "
     "refused token aborts the reload); `degraded`"),
    ("a lease of Vault ends",
     "svcinit asks for another secret before, and reloads the service (`SVCINIT_WATCH=1`); otherwise a warning"),
    ("a template error, a missing key, a failed check command",
     "at the start exit 78; at a reload no file is written and the service is not notified; `degraded`"),
    ("a KV value or a rendered argument exceeds a kernel limit (131,071 bytes, or the limit of all together)",
     "at the start exit 78; at a reload, also with `restart`, nothing changes and the service continues; `degraded`"),
    ("svcinit finds a fifo, a device or a directory instead of a file (`X_FILE`, a certificate, the source)",
     "exit 78, and the message names the path; such a cache file is ignored. svcinit does not wait for such a path"),
    ("a prefix or peer set is empty and had entries before",
     "as if Consul were unavailable, because recovering servers give empty answers; set `SVCINIT_ALLOW_EMPTY=1` if "
     "empty is correct"),
    ("the service is not ready (`SVCINIT_READY`) in time", "svcinit stops it without registering it; exit 69"),
    ("`SVCINIT_CHECK` fails after a reload (`SVCINIT_RELOAD_VERIFY`)",
     "the files are rolled back and the service is notified again; `degraded`"),
    ("a hook fails", "at the start svcinit exits with the status of the hook; at a reload the files are rolled back"),
    ("the disk is too slow for a reload", "the files are rolled back and the service is not notified; `degraded`"),
    ("`SVCINIT_RELOAD` fails", "`degraded`; the next HUP notifies the service again"),
    ("the service does not handle the reload signal",
     "svcinit does not send the signal, because it would end the service; `degraded` names the setting to change; the "
     "service continues"),
    ("a HUP or a change arrives before the service is ready (`SVCINIT_READY`)",
     "the service is notified when it is ready"),
    ("the container is paused (`docker pause`)", "svcinit kills no process for a deadline during the pause"),
    ("somebody sends TERM to the process that registers the service", "it ignores the signal: only PID 1 can stop it"),
    ("other programs put files into the state directory",
     "svcinit does not read them or wait for them; it replaces them"),
    ("the service exits by itself", "svcinit deregisters it and exits with its status (128+N for signal N)"),
    ("the service ignores the stop signal", "all remaining processes get KILL after `SVCINIT_STOP_TIMEOUT`"),
    ("Consul is unavailable at the stop",
     "the service gets the stop signal after half of `SVCINIT_STOP_TIMEOUT`; svcinit continues to try to deregister; "
     "otherwise Consul drops the service after `SVCINIT_DEREGISTER_AFTER`"),
    ("a second stop signal arrives", "it skips the drain; a third one kills all processes"),
    ("an internal error occurs in svcinit",
     "the log has `internal error`; svcinit repeats the failed step, for a stop until 0.9 s after "
     "`SVCINIT_STOP_TIMEOUT`; then it kills all processes and exits"),
    ("`SVCINIT_POST_STOP` hangs",
     "it is killed 0.8 s after `SVCINIT_STOP_TIMEOUT`, so that the whole stop fits into 10 s"),
    ("svcinit cannot fork a process for its own probe",
     "the check is critical with `not probed` until the next probe works; svcinit runs on and deregisters at the stop"),
    ("a check command or probe hangs", "it is killed at its deadline, with all processes that it started"),
    ("a check command or probe prints without end",
     "only the end of the output is kept, and memory use stays constant; it is killed at its deadline"),
    ("Consul sends a `Retry-After` of hours",
     "svcinit asks again within 30 s, or within 5 s at a start, until `SVCINIT_START_TIMEOUT`"),
    ("the log's reader is gone, or its file has reached its size limit",
     "the lines are lost; the service gets no signal; start, reload and exit status are not affected"),
    ("stdout or stderr is closed", "it stays closed for the service; the exit status does not change"),
    ("the metrics server has no free file descriptor",
     "the oldest connection is closed, or the scrape waits, without CPU use"),
    ("the state directory is not writable", "svcinit runs on; `svcinitctl` finds no state files"),
    ("the service goes into the background (daemonizes)",
     "the exit of its first process ends the container, and the log contains the reason"),
    ("the service's program is not found, or not executable", "exit 127, or 126"),
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
    text = HEAD + "## While the service runs\n\n" + FIGURES
    for name, wrong, happens in RUNNING:
        served, failed, _, gap, right = figures[name]
        text += f"| {wrong} | {happens} | {failed} of {int(served) + int(failed)} | {gap} | {right} |\n"
    text += "\n## At the start, at a reload, at the stop\n\n" + PLAIN
    return text + "".join(f"| {wrong} | {happens} |\n" for wrong, happens in ELSE)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
