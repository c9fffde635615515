"""Every check and finding of the doctor, as data; docs/doctor.md and the schema are made from these tables."""

from __future__ import annotations

OK, WARNING, WRONG = "ok", "warning", "wrong"


class Finding:
    """`meaning`: what the finding shows. `todo`: advice, with fields of the case in braces."""

    __slots__ = ("level", "meaning", "todo")

    def __init__(self, level: str, meaning: str, todo: str) -> None:
        self.level, self.meaning, self.todo = level, meaning, todo


# fmt: off
CHECKS = {  # what each one checks
    "settings": "Does svcinit accept the variables? All errors are reported; a wrong variable then counts as unset.",
    "init": "Is svcinit PID 1, or would it be? In which state is a svcinit that runs here?",
    "user": "As which users do svcinit and the service run, and may svcinit become the user of the service?",
    "command": "Can the command, the hooks and every `exec:` be started by their user? None of them is started.",
    "stop": "Does a stop fit into the 10 s of `docker stop`, and does Docker's signal start it?",
    "reload": "Does the running service handle its reload signal (SVCINIT_RELOAD)?",
    "run": "Can svcinit write its state to SVCINIT_RUN?",
    "cache": "Can SVCINIT_CACHE be written, and can an existing cache be read?",
    "templates": "Is the syntax of every template correct? Can each one be rendered with the current data of Consul?",
    "targets": "Each rendered file is written beside its target with its mode and owner, its check command is run, "
      "and the file is removed.",
    "modules": "Are the Python packages installed that the settings and templates need in addition to the base?",
    "http": "Does Consul's agent answer, and does its cluster have a leader? With the time of the answer.",
    "clock": "By how much do the clocks of this host and of the agent differ? From the Date of the agent's answers, "
      "to a second.",
    "token": "Which token is it, by its accessor? May it read the agent, and register each service? None is "
      "registered.",
    "kv": "May the token read each KV prefix, and are there keys? Can the keys below SVCINIT_ENV_PREFIX be variables?",
    "vault": "If templates use secrets: does Vault answer, is the token valid, for how long, and may it read the paths "
      "in the templates? With the least policy for them. Nothing is issued and nothing is unwrapped; with AppRole the "
      "doctor logs in, which uses VAULT_SECRET_ID once.",
    "dns": "Does each DNS server answer, and does it show services? With the time of the answer.",
    "source": "SVCINIT_SOURCE: can the file be read?",
    "wait": "Are the services of SVCINIT_WAIT_FOR and the keys of SVCINIT_WAIT_FOR_KEYS available now?",
    "address": "Which address would be registered, and can clients connect to it?",
    "register": "What do the svcinit that runs here and the agent report about each service and its check?",
}

W = Finding
FINDINGS = {
    # settings
    "settings-wrong": W(WRONG, "A variable, or the file that it names, has a value that svcinit does not accept: "
      "svcinit would exit with 78. The other checks treat the variable as unset.",
      "correct it as the message says; `svcinit --help` lists all variables"),
    "variable-unknown": W(WRONG, "svcinit has no variable of that name: svcinit would exit with 78.",
      "correct or remove the name; `svcinit --help` lists all variables"),
    "module-missing": W(WRONG, "A setting, or a filter of a template, needs a Python package that is not installed. "
      "svcinit-base contains all of them; pip installs them only as extras.",
      "in a checkout of svcinit pip install '.[{extra}]', or use svcinit-base"),
    # the process
    "not-pid-1": W(WARNING, "Another program is PID 1 in the container (`docker run --init`, or an entrypoint that "
      "does not exec). svcinit is then a subreaper, and at the end it kills only its own descendants. Signals reach "
      "svcinit through `--init`, but perhaps not through a shell.",
      "remove --init: svcinit does the work of {name}; if {name} is an entrypoint of the image, let it exec svcinit"),
    "pid-host": W(WARNING, "The container uses the process IDs of its host (`docker run --pid=host`). svcinit is then "
      "a subreaper, and at the end it kills only its own descendants.",
      "remove --pid=host, unless the service needs to see the processes of the host"),
    "capability-missing": W(WRONG, "SVCINIT_USER is set, and the container lacks a capability to become that user: "
      "the service and the hooks would not start.",
      "docker run {options}, or --user {user} instead of SVCINIT_USER"),
    "other-user": W(WARNING, "The doctor runs as another user than svcinit: its findings about files are valid for "
      "its own user.",
      "docker exec --user {user}"),
    "degraded": W(WARNING, "The svcinit that runs here started from the cache, or its last reload failed.",
      "correct the errors of this report, then docker kill -s HUP"),
    # commands
    "command-missing": W(WRONG, "The command, or its interpreter, is not in the image: exit status 127 or 126.",
      "install it in the image, or correct {where}"),
    "command-not-executable": W(WRONG, "The command exists, but the user that svcinit starts it as cannot execute it: "
      "exit status 126.",
      "make it executable for that user (chmod +x, a mount without noexec), or correct {where}"),
    # the stop
    "stop-too-long": W(WARNING, "The drain, the time until KILL and 0.9 s for the remaining processes are together "
      "longer than the 10 s of `docker stop`: then Docker kills everything before the stop is complete. The timeout "
      "that Docker was given is not visible from inside.",
      "docker stop -t {seconds}, docker run --stop-timeout {seconds} or stop_grace_period in a compose file, unless "
      "it is set already; or lower SVCINIT_STOP_TIMEOUT or SVCINIT_DRAIN"),
    "stop-signal": W(WARNING, "`docker stop` sends TERM unless the image has another STOPSIGNAL, and TERM does not "
      "start the stop. The STOPSIGNAL of the image is not visible from inside.",
      "add TERM to SVCINIT_STOP_ON, or set STOPSIGNAL {signals} in the image"),
    # the reload
    "reload-unhandled": W(WARNING, "The service neither catches nor ignores nor blocks its reload signal, so the "
      "signal would kill it. svcinit does not send it: each reload fails, and the service keeps the configuration of "
      "its start.",
      "set SVCINIT_RELOAD to an action that makes the service read its files again (another signal, exec:COMMAND, "
      "restart), or to none"),
    # svcinit's own files
    "run-unwritable": W(WARNING, "svcinit cannot write its state: svcinitctl status, reload and health find no "
      "svcinit, so a HEALTHCHECK by svcinitctl fails.",
      "docker run --tmpfs {folder}, or set SVCINIT_RUN to a directory that uid {uid} can write to"),
    "cache-unwritable": W(WARNING, "svcinit cannot keep the data of Consul: it will not start while Consul is "
      "unavailable.",
      "docker run -v NAME:{folder} for uid {uid}, or SVCINIT_CACHE= for no cache"),
    "cache-refused": W(WARNING, "svcinit will not use the existing cache: it will not start from it while Consul is "
      "unavailable.",
      "remove it (the next start writes a new one), or give each service its own SVCINIT_CACHE"),
    # templates and files
    "template-wrong": W(WRONG, "A template, or the svcinit comment in its first line, is wrong for any data: svcinit "
      "would exit with 78.",
      "correct the template in that line"),
    "template-fails": W(WRONG, "A template, or an argument of the command, uses a key or variable that does not "
      "exist, or fails on its data: svcinit would exit with 78.",
      "add the key below one of the KV prefixes or set the variable, or give it a default in the template"),
    "template-waits": W(WRONG, "A template needs data that are not available now, such as `min=` peers: svcinit would "
      "wait for them until SVCINIT_START_TIMEOUT, and then exit with 69.",
      "see the findings of http and dns; start the services that the template needs, or require fewer"),
    "template-unrendered": W(WARNING, "The templates were compiled but not rendered, because the data of Consul are "
      "missing.",
      "correct the findings of http, token or kv, then run the doctor again"),
    "env-wrong": W(WRONG, "A key below SVCINIT_ENV_PREFIX cannot become a variable of the service: svcinit would exit "
      "with 78.",
      "rename the key, or set SVCINIT_ENV_PREFIX to another level"),
    "target-wrong": W(WRONG, "svcinit's user cannot write a file to the place that its template names: svcinit would "
      "exit with 78.",
      "let uid {uid} write to {folder} (with --read-only, by a tmpfs or a volume there), or rename the template"),
    "target-owner": W(WRONG, "A file can be written, but svcinit cannot change its owner as the template asks: "
      "svcinit would exit with 78.",
      "run as root with CAP_CHOWN, or remove `owner=` from the first line of the template"),
    "target-mounted": W(WARNING, "A file is a mount of its own, so svcinit writes it in place: a reader at that "
      "moment can see an incomplete file.",
      "mount {folder} instead of the file"),
    "check-refuses": W(WRONG, "The check command of a template does not accept the rendered file, or cannot be run: "
      "svcinit would exit with 78.",
      "correct the error that the command reports, in the template or in KV, or correct `check=` in the first line of "
      "the template"),
    # Consul
    "consul-away": W(WRONG, "Consul's agent does not answer: svcinit would wait for it until SVCINIT_START_TIMEOUT.",
      "start the agent, or set CONSUL_HTTP_ADDR to its address; in a container without --network=host, 127.0.0.1 is "
      "the container itself"),
    "consul-wrong": W(WRONG, "The server at CONSUL_HTTP_ADDR does not answer as an agent for these settings, or TLS "
      "fails.",
      "correct the CONSUL_... variable in the message; if a certificate is not valid yet or has expired, see the "
      "finding of clock"),
    "consul-leaderless": W(WRONG, "The agent answers, but its servers have no leader: nothing can be read or "
      "registered.",
      "see `consul members` and the logs of the servers: more than half of the servers must be available"),
    "clock-skew": W(WARNING, "The clocks of this host and of the agent differ. Certificates can seem not yet valid or "
      "expired, tokens with an expiry can seem to end at another time, and the age of the cache and the times in logs "
      "are wrong. TTLs of checks, sessions and DNS are durations: a difference does not affect them. The clocks of "
      "the servers are not visible from here.",
      "synchronize the clocks of both hosts by NTP (timedatectl, chronyc tracking)"),
    "token-missing": W(WRONG, "ACLs are on, no token is given, and anonymous access is not enough.",
      "create a token with the policy below, and set CONSUL_HTTP_TOKEN or CONSUL_HTTP_TOKEN_FILE"),
    "token-unknown": W(WRONG, "Consul does not know the token: it is misspelt, revoked or expired, or it belongs to "
      "another datacenter. A token that was just created is unknown until the servers have replicated it.",
      "use a token from `consul acl token list`; for a prefix in another datacenter, one that is valid there too"),
    "rule-missing": W(WRONG, "The token lacks a rule that the settings need.",
      "add to a policy of the token: {rule}"),
    "rule-advised": W(WARNING, "The token may not read the agent, so svcinit uses 127.0.0.1 as the agent's own "
      "address: Consul's check probes there.",
      "add to a policy of the token: {rule}; or set SVCINIT_ADVERTISE"),
    "rule-untried": W(WARNING, "This agent does not report whether the token may register a service. The doctor does "
      "not register one for a test, because others would see it.",
      "make sure that the policy of the token has: {rules}"),
    "kv-empty": W(WARNING, "There are no keys below a prefix. This is not an error, and can be intended.",
      "consul kv put {prefix}/NAME VALUE, if there should be keys; or correct SVCINIT_KV_PREFIX"),
    "kv-emptied": W(WRONG, "A prefix had keys when svcinit ran last, and has none now. svcinit treats this as a "
      "failed fetch, because recovering servers answer like this.",
      "restore the keys; if the prefix is meant to be empty, set SVCINIT_ALLOW_EMPTY=1"),
    "source-wrong": W(WRONG, "The file that replaces Consul (SVCINIT_SOURCE) cannot be read, or has an error.",
      "correct the file in that line"),
    # Vault
    "vault-unset": W(WRONG, "A template uses a secret of Vault, and no server is named: svcinit would exit with 78.",
      "set VAULT_ADDR, and VAULT_TOKEN_FILE or VAULT_ROLE_ID and VAULT_SECRET_ID_FILE"),
    "vault-away": W(WRONG, "Vault does not answer, or is sealed: svcinit would wait for it until "
      "SVCINIT_START_TIMEOUT, and then exit with 69, unless SVCINIT_CACHE has the secrets.",
      "start or unseal Vault, or set VAULT_ADDR to its address"),
    "vault-wrong": W(WRONG, "The server at VAULT_ADDR does not answer as Vault for these settings, TLS fails, or the "
      "login fails.",
      "correct the VAULT_... variable in the message"),
    "vault-token": W(WRONG, "The token is not valid: it has ended or was revoked, or a wrapping token was used "
      "already. svcinit would exit with 78.",
      "give svcinit a new token; for one that a restart needs again, use AppRole or a token that svcinit can renew"),
    "vault-token-ends": W(WRONG, "The token cannot be renewed, and svcinit has no way to get another one: when it has "
      "ended, no secret is read or renewed.",
      "use a renewable token, AppRole, or VAULT_TOKEN_FILE with a file that another program replaces"),
    "vault-rule": W(WRONG, "The token lacks a rule that a path in a template needs.",
      "add to a policy of the token: {rule}"),
    # DNS
    "dns-away": W(WRONG, "No DNS server gives a usable answer, and templates or SVCINIT_WAIT_FOR ask for peers: "
      "svcinit would wait until SVCINIT_START_TIMEOUT.",
      "set SVCINIT_DNS_ADDR to Consul's DNS (port 8600 of an agent) or to a server that forwards to it"),
    "dns-server-away": W(WARNING, "A DNS server gives no usable answer: each question can lose time on it. Another "
      "server answers, or nothing asks for peers.",
      "correct SVCINIT_DNS_ADDR, or remove the server from it"),
    "dns-blind": W(WRONG, "A DNS server answers, but does not even show Consul itself, and templates or "
      "SVCINIT_WAIT_FOR ask for peers.",
      "set SVCINIT_DOMAIN to the agent's `domain`, and give the agent's own token the rules below"),
    "peers-missing": W(WRONG, "There are fewer healthy instances than SVCINIT_WAIT_FOR requires: svcinit would wait "
      "for them until SVCINIT_START_TIMEOUT, and then exit with 69.",
      "start the instances, look at their checks in Consul, or require fewer"),
    "keys-missing": W(WRONG, "Keys of SVCINIT_WAIT_FOR_KEYS do not exist: svcinit would wait for them until "
      "SVCINIT_START_TIMEOUT, and then exit with 69.",
      "put them below one of the KV prefixes, or remove them from SVCINIT_WAIT_FOR_KEYS"),
    # the registration
    "address-unknown": W(WRONG, "SVCINIT_ADVERTISE matches no address of this container.",
      "set it to one of the existing addresses"),
    "address-loopback": W(WRONG, "A loopback address would be registered, and the agent is on another host: the "
      "agent's check and all peers would look for the service on their own hosts.",
      "set SVCINIT_ADVERTISE=default-route, or an interface or network that others can reach"),
    "address-foreign": W(WARNING, "The address to register is on no interface of this container. This works only if "
      "another host, or the Docker host, forwards the port.",
      "publish the port there (docker run -p {address}:{port}:{port}), or set SVCINIT_ADVERTISE=default-route"),
    "address-agents": W(WARNING, "The agent's own address would be registered, and the agent is not in the network of "
      "this container. This works only if the agent's host forwards the port.",
      "set SVCINIT_ADVERTISE=default-route if others can reach this network; otherwise publish the port (docker run "
      "-p {port}:{port}) or use --network=host"),
    "unregistered": W(WRONG, "The svcinit that runs here could not register the service, or cannot keep it in sync.",
      "correct the error in the message"),
    "check-critical": W(WRONG, "The service is registered, and its check in Consul is critical: no client finds it.",
      "does the service run at that address and port, and may the agent's host connect to it? If it cannot, set "
      "SVCINIT_CHECK_VIA=ttl: svcinit then probes from inside"),
    "maintenance": W(WARNING, "The service is in maintenance mode: no client finds it.",
      "svcinitctl maintenance off"),
    # the doctor itself
    "unfinished": W(WRONG, "The check did not end within its time, and was stopped. It would delay svcinit, too.",
      "find out what it waits for: a file system or a resolver that hangs, a server whose answer does not end, a "
      "check command"),
    "doctor-failed": W(WRONG, "An error in the doctor itself, or the container has too little memory.",
      "give the container more memory, if it ended by signal 9; otherwise report the error to the developers of "
      "svcinit"),
}
# fmt: on
