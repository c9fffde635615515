"""Every check and finding of the doctor, as data: what it says to do, docs/doctor.md and the schema come from these."""

from __future__ import annotations

OK, WARNING, WRONG = "ok", "warning", "wrong"


class Finding:
    """`meaning`: what it is a sign of. `todo`: what to do about it, with what differs from case to case in braces."""

    __slots__ = ("level", "meaning", "todo")

    def __init__(self, level: str, meaning: str, todo: str) -> None:
        self.level, self.meaning, self.todo = level, meaning, todo


# fmt: off
CHECKS = {  # what each tries
    "settings": "Are the variables as svcinit takes them? All faults are told; what is wrong counts as unset then.",
    "init": "Is svcinit PID 1, or would it be? In which state is one that runs here?",
    "user": "As which user run svcinit and the command, and may svcinit become that user?",
    "command": "Can the command, the hooks and every `exec:` be started by the user who does? None is.",
    "stop": "Does a stop fit into the 10 s that `docker stop` gives, and does Docker's signal start it?",
    "reload": "Does the command that runs handle its reload signal (SVCINIT_RELOAD)?",
    "run": "Can svcinit leave its state in SVCINIT_RUN?",
    "cache": "Can SVCINIT_CACHE be written, and be read if it is there?",
    "templates": "Is the syntax of every template right? Can each be rendered with what Consul has now?",
    "targets": "Each rendered file is written beside its target with its mode and owner, its check command run, and "
      "removed.",
    "modules": "Are the Python packages there that the settings and templates need beyond the base?",
    "http": "Does Consul's agent answer, and has its cluster a leader? With the time that it took.",
    "clock": "By how much do this host's clock and the agent's differ? By the Date of its answers, to a second.",
    "token": "Which token is it, by its accessor? May it read the agent, and register each service (none is)?",
    "kv": "May the token read each KV prefix, and are there keys? Can those below SVCINIT_ENV_PREFIX be variables?",
    "dns": "Does each DNS server answer, and show services? With the time that it took.",
    "source": "SVCINIT_SOURCE: can the file be read?",
    "wait": "Are the services of SVCINIT_WAIT_FOR and the keys of SVCINIT_WAIT_FOR_KEYS there now?",
    "address": "Which address would be registered, and can others be sent there?",
    "register": "What do the svcinit that runs here and the agent say of each service, and of its check?",
}

W = Finding
FINDINGS = {
    # settings
    "settings-wrong": W(WRONG, "A variable, or the file that it names, has a value that svcinit does not take: it "
      "would exit with 78. The rest was looked at as if it were unset.",
      "set it as the message says; `svcinit --help` lists all variables"),
    "variable-unknown": W(WRONG, "svcinit knows no variable of that name: it would exit with 78.",
      "correct the name, or remove it; `svcinit --help` lists all variables"),
    "module-missing": W(WRONG, "A setting, or a filter of a template, needs a Python package that is not there. "
      "svcinit-base has all of them; pip installs them only as extras.",
      "pip install 'svcinit[{extra}]', or use svcinit-base"),
    # the process
    "not-pid-1": W(WARNING, "Something else is PID 1 in the container (`docker run --init`, an entrypoint that does "
      "not exec). svcinit is a subreaper then, and at the end kills only what descends from it. Through `--init` "
      "signals reach it, through a shell they may not.",
      "leave out --init: svcinit does what {name} does; where {name} is an entrypoint of the image, let it exec "
      "svcinit"),
    "pid-host": W(WARNING, "The container has the process IDs of its host (`docker run --pid=host`). svcinit is a "
      "subreaper then, and at the end kills only what descends from it.",
      "leave out --pid=host, unless the service has to see the host's processes"),
    "capability-missing": W(WRONG, "SVCINIT_USER is set, and the container lacks what it takes to become that user: "
      "the command and the hooks would not start.",
      "docker run {options}, or --user {user} instead of SVCINIT_USER"),
    "other-user": W(WARNING, "The doctor runs as another user than svcinit does: what it says of files is true of its "
      "own.",
      "docker exec --user {user}"),
    "degraded": W(WARNING, "The svcinit that runs here started from the cache, or its last reload failed.",
      "set right what is told here, then docker kill -s HUP"),
    # commands
    "command-missing": W(WRONG, "There is no such command in the image, or what interprets it is missing: exit status "
      "127 or 126.",
      "install it in the image, or correct {where}"),
    "command-not-executable": W(WRONG, "The command is there and cannot be executed by the user that svcinit starts "
      "it as: exit status 126.",
      "make it executable for that user (chmod +x, a mount without noexec), or correct {where}"),
    # the stop
    "stop-too-long": W(WARNING, "The drain, the time until KILL and a second for what is left add up to more than the "
      "10 s that `docker stop` gives: then all is killed in the middle of it. What Docker was told to give cannot be "
      "seen from inside.",
      "docker stop -t {seconds}, docker run --stop-timeout {seconds} or stop_grace_period in a compose file, "
      "unless it is set so already; or lower SVCINIT_STOP_TIMEOUT or SVCINIT_DRAIN"),
    "stop-signal": W(WARNING, "TERM, which `docker stop` sends unless the image has another STOPSIGNAL, does not "
      "start the stop. The image's STOPSIGNAL cannot be seen from inside.",
      "let SVCINIT_STOP_ON have TERM, or the image have STOPSIGNAL {signals}"),
    # the reload
    "reload-unhandled": W(WARNING, "The command neither catches nor ignores nor blocks its reload signal, which would "
      "end it. svcinit does not send it: each reload fails, and the command keeps what it read at its start.",
      "set SVCINIT_RELOAD to what makes the command read its files again: another signal, exec:COMMAND, restart; or "
      "none"),
    # svcinit's own files
    "run-unwritable": W(WARNING, "svcinit cannot leave its state: svcinitctl status, reload and health find no "
      "svcinit, so that a HEALTHCHECK by svcinitctl fails.",
      "docker run --tmpfs {folder}, or let SVCINIT_RUN name a directory that uid {uid} may write to"),
    "cache-unwritable": W(WARNING, "What is known of Consul cannot be kept: svcinit will not start while Consul is "
      "away.",
      "docker run -v NAME:{folder} for uid {uid}, or SVCINIT_CACHE= for none"),
    "cache-refused": W(WARNING, "The cache that is there will not be used: svcinit will not start from it while "
      "Consul is away.",
      "remove it (the next start writes a new one), or give each service an SVCINIT_CACHE of its own"),
    # templates and files
    "template-wrong": W(WRONG, "A template, or the svcinit comment on its first line, is wrong whatever it is "
      "rendered from: svcinit would exit with 78.",
      "correct the template in that line"),
    "template-fails": W(WRONG, "A template, or an argument of the command, names what is not there, or fails on what "
      "it is given: svcinit would exit with 78.",
      "put the key below one of the KV prefixes or set the variable, or let the template have a default"),
    "template-waits": W(WARNING, "A template needs what cannot be had now, such as peers: svcinit would wait for it "
      "until SVCINIT_START_TIMEOUT.",
      "see what is told of http and dns; start the services that it needs, or let it need fewer"),
    "template-unrendered": W(WARNING, "The templates were compiled and not rendered, for want of what Consul has.",
      "set right what is told of http, token or kv, then ask again"),
    "env-wrong": W(WRONG, "A key below SVCINIT_ENV_PREFIX cannot become a variable of the command: svcinit would exit "
      "with 78.",
      "rename the key, or let SVCINIT_ENV_PREFIX name another level"),
    "target-wrong": W(WRONG, "A file cannot be put where its template says, by the user that svcinit runs as: svcinit "
      "would exit with 78.",
      "let uid {uid} write to {folder}, with --read-only by a tmpfs or a volume there; or rename the template"),
    "target-owner": W(WRONG, "A file can be written, and not be given to the owner that its template asks for: "
      "svcinit would exit with 78.",
      "run as root with CAP_CHOWN, or take `owner=` out of the template's first line"),
    "target-mounted": W(WARNING, "A file is mounted by itself, so it is written in place: whoever reads it at that "
      "moment may see half of it.",
      "mount {folder} instead of the file"),
    "check-refuses": W(WRONG, "The check command of a template does not accept what was rendered, or cannot be run: "
      "svcinit would exit with 78.",
      "correct what it complains of, in the template or in KV, or correct `check=` in the template's first line"),
    # Consul
    "consul-away": W(WRONG, "Consul's agent does not answer: svcinit would wait for it until SVCINIT_START_TIMEOUT.",
      "start the agent, or let CONSUL_HTTP_ADDR name where it listens; in a container without --network=host, "
      "127.0.0.1 is the container itself"),
    "consul-wrong": W(WRONG, "What is at CONSUL_HTTP_ADDR answers otherwise than an agent for these settings, or TLS "
      "fails.",
      "correct the CONSUL_... variable that the message names; where a certificate is not valid yet or any more, see "
      "what is told of the clock"),
    "consul-leaderless": W(WRONG, "The agent answers, and its servers have no leader: nothing can be read or "
      "registered.",
      "see `consul members` and the servers' logs: more than half of them have to be there"),
    "clock-skew": W(WARNING, "This host's clock and the agent's differ. Certificates seem to be not yet valid or "
      "expired, tokens with an end seem to end at another time, the age of the cache and the times in logs are wrong. "
      "TTLs of checks, sessions and DNS are lengths of time: they suffer when the clock is set, not from the "
      "difference. The servers' clocks cannot be seen from here.",
      "have both hosts keep their time by NTP (timedatectl, chronyc tracking)"),
    "token-missing": W(WRONG, "ACLs are on, no token is given, and what needs none is not enough.",
      "make a token with the policy below, and give it by CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE"),
    "token-unknown": W(WRONG, "Consul does not know the token: it was misspelt, revoked or has ended, or is one of "
      "another datacenter.",
      "give one that `consul acl token list` has; for a prefix in another datacenter one that is known there, too"),
    "rule-missing": W(WRONG, "The token may not do what the settings need.",
      "add to a policy of the token: {rule}"),
    "rule-advised": W(WARNING, "The token may not read the agent, so that svcinit takes 127.0.0.1 for the agent's own "
      "address: Consul's check probes there.",
      "add to a policy of the token: {rule}; or set SVCINIT_ADVERTISE"),
    "rule-untried": W(WARNING, "This agent does not say whether the token may register; to register for a trial would "
      "be seen by others.",
      "see that the token's policy has: {rules}"),
    "kv-empty": W(WARNING, "There are no keys below a prefix, which is no fault: it may be meant.",
      "consul kv put {prefix}/NAME VALUE, if it should have some; or correct SVCINIT_KV_PREFIX"),
    "kv-emptied": W(WRONG, "A prefix had keys when svcinit last ran, and has none now: taken for a failed fetch, "
      "since servers that recover answer so.",
      "put the keys back; if this is meant, SVCINIT_ALLOW_EMPTY=1"),
    "source-wrong": W(WRONG, "The file that stands in for Consul (SVCINIT_SOURCE) cannot be read, or is not as it "
      "should be.",
      "correct it in that line"),
    # DNS
    "dns-away": W(WRONG, "No DNS server answers usefully, and templates or SVCINIT_WAIT_FOR ask for peers: svcinit "
      "would wait until SVCINIT_START_TIMEOUT.",
      "let SVCINIT_DNS_ADDR name Consul's DNS (port 8600 of an agent) or a server that forwards to it"),
    "dns-server-away": W(WARNING, "A DNS server does not answer usefully: each question may lose time on it. Another "
      "one does, or nothing asks for peers.",
      "correct SVCINIT_DNS_ADDR, or take it out"),
    "dns-blind": W(WRONG, "A DNS server answers, and shows not even Consul itself, though templates or "
      "SVCINIT_WAIT_FOR ask for peers.",
      "let SVCINIT_DOMAIN be the agent's `domain`, and the agent's own token have the rules below"),
    "peers-missing": W(WARNING, "There are fewer healthy instances than SVCINIT_WAIT_FOR asks for: svcinit would wait "
      "until SVCINIT_START_TIMEOUT.",
      "start them, see their checks in Consul, or ask for fewer"),
    "keys-missing": W(WARNING, "Keys of SVCINIT_WAIT_FOR_KEYS do not exist: svcinit would wait for them until "
      "SVCINIT_START_TIMEOUT.",
      "put them below one of the KV prefixes, or remove them from SVCINIT_WAIT_FOR_KEYS"),
    # the registration
    "address-unknown": W(WRONG, "SVCINIT_ADVERTISE matches no address of this container.",
      "let it name one of those that there are"),
    "address-loopback": W(WRONG, "A loopback address would be registered, and the agent is elsewhere: its check and "
      "all peers would look for the service on their own hosts.",
      "set SVCINIT_ADVERTISE=default-route, or an interface or network that others reach"),
    "address-foreign": W(WARNING, "The address that would be registered is on no interface of this container: right "
      "only where another host or the Docker host passes it on.",
      "publish the port there (docker run -p {address}:{port}:{port}), or set SVCINIT_ADVERTISE=default-route"),
    "address-agents": W(WARNING, "The agent's own address would be registered, and the agent is not in this "
      "container's network: right only where its host passes the port on.",
      "set SVCINIT_ADVERTISE=default-route where others reach this network, else publish the port (docker run -p "
      "{port}:{port}) or use --network=host"),
    "unregistered": W(WRONG, "The svcinit that runs here could not register the service, or keep it registered.",
      "set right what it says"),
    "check-critical": W(WRONG, "The service is registered, and its check in Consul fails: nobody is sent to it.",
      "is the service up, at that address and port, and may the agent's host connect to it? Where it cannot, "
      "SVCINIT_CHECK_VIA=ttl probes from inside"),
    "maintenance": W(WARNING, "The service is in maintenance mode: nobody is sent to it.",
      "svcinitctl maintenance off"),
    # the doctor itself
    "unfinished": W(WRONG, "What was tried had not ended when its time was over, and was ended. It would hold up "
      "svcinit, too.",
      "see what it waits for: a file system or a resolver that hangs, a server that answers without end, a check "
      "command"),
    "doctor-failed": W(WRONG, "A fault of the doctor's own, or the container has too little memory.",
      "give the container more memory, if it ended by signal 9; else tell svcinit's makers"),
}
# fmt: on
