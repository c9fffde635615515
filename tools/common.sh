# Sourced by the tools beside it: where things are kept between runs, and one at a time.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/svcinit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$cache"

one_at_a_time() { # NAME: wait until no other run of this tool is at work
    exec 9>"$cache/$1.lock"
    flock -w 600 9 || { echo "$0: another run holds $cache/$1.lock" >&2; exit 1; }
}

machine_mirror() { # the Debian or Ubuntu mirror that this machine installs from
    awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/{debian,ubuntu}.sources 2>/dev/null | grep . ||
        awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }' /etc/apt/sources.list
}
