#!/bin/sh
# fwl: a job runner that lives in one SQLite file. This text starts the program that is packed below it.
# It is unpacked once, into ~/.cache/fwl or a folder of your own in /tmp; while nothing runs, that may be removed.
name=bin-@HASH@ first=@FIRST@
case $0 in
/*) FWL_ONE_FILE=$0 ;;
*) FWL_ONE_FILE=$PWD/${0#./} ;;
esac
export FWL_ONE_FILE

is_ready() {
    [ -O "$place" ] && [ ! -L "$place" ] && [ -O "$place/$name" ] && [ -x "$place/$name/fwl" ]
}

unpack() (
    PATH=${PATH:+$PATH:}/usr/bin:/bin
    umask 077
    mkdir -p "$place" && [ -O "$place" ] && [ ! -L "$place" ] && new=$(mktemp -d "$place/new.XXXXXX") || exit
    trap 'rm -rf "$new"' EXIT
    trap 'exit 1' HUP INT TERM
    find "$place" -name 'new.*' -mtime +0 -prune -exec rm -rf {} + # of a first start that was killed
    mkdir "$new/$name" || exit
    tail -n "+$first" "$FWL_ONE_FILE" | gzip -dc | tar -xof - -C "$new/$name" && [ -x "$new/$name/fwl" ] || exit
    mv "$new/$name" "$place" 2>/dev/null && exit # fails where somebody else was quicker,
    is_ready || { mv "$place/$name" "$new/old" && mv "$new/$name" "$place"; } # or where something was removed
)

cache=${XDG_CACHE_HOME-}
case $cache in
/*) ;;
*) cache=${HOME-}/.cache ;;
esac
place=$cache/fwl
is_ready && exec "$place/$name/fwl" "$@"

spare=${TMPDIR:-/tmp}/fwl-$(PATH=${PATH:+$PATH:}/usr/bin:/bin && id -u)
place=$spare
is_ready && exec "$place/$name/fwl" "$@"
[ -z "${HOME-}${XDG_CACHE_HOME-}" ] || { place=$cache/fwl && unpack 2>/dev/null; }
is_ready && exec "$place/$name/fwl" "$@"
place=$spare && unpack
is_ready && exec "$place/$name/fwl" "$@"
echo "fwl: cannot be unpacked into $cache/fwl nor into $spare; set XDG_CACHE_HOME to a folder of yours" >&2
exit 74
