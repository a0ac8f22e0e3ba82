#!/bin/sh
# stage.sh BINARY DIRECTORY: what an image of baton consists of: the binary, the four libraries that it
# asks for, and the directories that it writes to.
set -eu

binary=$1
image=$2

mkdir -p "$image/usr/bin" "$image/etc/baton" "$image/run/baton" "$image/var/lib/baton" "$image/tmp"
chmod 755 "$image" "$image/run/baton"
chmod 700 "$image/var/lib/baton"
chmod 1777 "$image/tmp"
cp "$binary" "$image/usr/bin/baton"
ldd "$binary" | grep -o '/[^ ]*' | while read -r library; do
    mkdir -p "$image$(dirname "$library")"
    cp "$library" "$image$library"
done
# Workers become this user.
echo 'root:x:0:0::/:/usr/bin/baton
nobody:x:65534:65534::/:/usr/bin/baton' > "$image/etc/passwd"
echo 'root:x:0:
nogroup:x:65534:' > "$image/etc/group"
