# Sourced by the tools beside it: where things are kept between runs, and one at a time.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/svcinit
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
mkdir -p "$cache"

one_at_a_time() { # NAME: wait until no other run of this tool is at work
    exec 9>"$cache/$1.lock"
    flock -w 600 9 || { echo "$0: another run holds $cache/$1.lock" >&2; exit 1; }
}

scratch() { # make the directory $work, which the end of the tool removes; no local variable: the trap needs it then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
}

machine_mirror() { # the Debian or Ubuntu mirror that this machine installs from
    awk '/^URIs:/ { print $2; exit }' /etc/apt/sources.list.d/{debian,ubuntu}.sources 2>/dev/null | grep . ||
        awk '$1 == "deb" { for (i = 2; i <= NF; i++) if ($i ~ /^https?:/) { print $i; exit } }' /etc/apt/sources.list
}

from_debian() { # SUITE DIR PACKAGE[:ARCHITECTURE]...: unpack packages of a Debian suite in DIR/tree; the machine's own apt state does not change
    local suite=$1 work=$2 keyring=/usr/share/keyrings/debian-archive-keyring.gpg package architecture
    shift 2
    architecture=$([[ $1 != *:* ]] && dpkg --print-architecture || echo "${1#*:}")
    if ! grep -q '^ID=debian' /etc/os-release || [ ! -f "$keyring" ]; then
        return 1
    fi
    mkdir -p "$work"/{sources,lists/partial,archives/partial}
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$(machine_mirror)" "$suite" "$keyring" \
        >"$work/sources/$suite.sources"
    local options=(-qq -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$work/sources"
        -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work" -o APT::Sandbox::User=root
        -o APT::Architecture="$architecture" -o APT::Architectures="$architecture"
        -o Acquire::Check-Valid-Until=false) # a mirror's index of sid may be past its date
    (cd "$work" && apt-get "${options[@]}" update >&2 && apt-get "${options[@]}" download "${@/%//$suite}" >&2) || return
    for package in "$work"/*.deb; do dpkg -x "$package" "$work/tree"; done
}

found() { # NAME: print the path of a program of the user's own: $NAME_BINARY (- is _), or the one on PATH; fail where there is none
    local variable=${1^^} path
    variable=${variable//-/_}_BINARY
    path=${!variable:-$(command -v "$1")} || return
    [ -x "$path" ] || { echo "$0: $variable=$path is not executable" >&2; exit 1; }
    echo "$path"
}

kept_program() { # NAME VERSION: the path in the cache for what tools/go/NAME-VERSION pins
    echo "$cache/$1-$2-$(cat "$here/go/$1-$2"/go.* | sha256sum | cut -c1-12)"
}

go_program() { # NAME VERSION PACKAGE: print the path of a program built from the Go modules that tools/go/NAME-VERSION pins
    local kept
    kept=$(kept_program "$1" "$2")
    one_at_a_time "$1-$2"
    if [ ! -x "$kept" ]; then
        command -v go >/dev/null || "$here/apt-install" golang-go
        echo "building $1 $2 (a few minutes)" >&2
        (cd "$here/go/$1-$2" && go build -trimpath -mod=readonly -ldflags '-s -w' -o "$kept.new" "$3") >&2
        mv "$kept.new" "$kept"
    fi
    echo "$kept"
}
