#!/bin/sh
# Gathers the evidence about PCI passthrough (VFIO) on a host where nothing is installed.
#
#   sudo sh gather.sh             writes ./vfioctl-HOSTNAME-DATE.tar.gz
#   sudo sh gather.sh FILE        writes FILE, which must not exist
#   sudo WAKE=yes sh gather.sh    also reads devices that sleep without power (D3cold)
#
# Then, on any machine:  vfioctl check --root FILE
#
# It only reads, and changes nothing on the host. It needs sh, tar, gzip and the usual small tools
# (GNU or BusyBox). As an ordinary user it gathers less, and the judgement says what is missing.
#
# What it leaves alone: VPD and ROM of devices, the configuration space of sleeping devices that
# somebody uses, and secrets: passwords, keys and notes in configurations are taken out here and
# never reach the file. The file does name this host, its addresses and its VMs.
#
# The result holds copies of the files in their own places, links as links, and manifest.txt: which
# directories were listed whole, and what could not be read and why. So a missing file proves
# something only if it was looked for.

# shellcheck disable=SC2010,SC2013,SC2045 # one name a line: those of /sys and /proc have no others

set -u
set -f # names are never patterns
IFS='
'
LC_ALL=C
PATH=$PATH:/usr/sbin:/sbin
export LC_ALL PATH
umask 077

PATIENCE=${PATIENCE:-5} # seconds that one read may take: a device in a reset can block for a minute
root=${VFIOCTL_ROOT:-} # directory that stands for /, for tests
wake=${WAKE:-no}

say() { printf '%s\n' "$*" >&2; }

die() {
    say "gather.sh: $*"
    exit 1
}

case ${1:-} in
-h | --help)
    sed -n '2,/^$/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
-*) die "unknown option $1; give a file name, or nothing" ;;
esac

host=$(cat "$root/proc/sys/kernel/hostname" 2>/dev/null || hostname 2>/dev/null || echo host)
host=$(printf '%s' "$host" | tr -c 'A-Za-z0-9._-' '_')
target=${1:-vfioctl-$host-$(date -u +%Y%m%dT%H%M%SZ).tar.gz}
case $target in /*) ;; *) target=$PWD/$target ;; esac
if [ -e "$target" ] || [ -h "$target" ]; then
    die "$target is there already; give another name"
fi

work=$(mktemp -d "${TMPDIR:-/tmp}/vfioctl-gather.XXXXXX") || die "no temporary directory"
trap 'rm -rf "$work"' EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM
tree=$work/tree       # becomes the archive
said=$work/said       # what a command complained of
manifest=$tree/manifest.txt
mkdir "$tree" || die "no room in $work"

if command -v timeout >/dev/null 2>&1; then
    limited() { timeout "$PATIENCE" "$@"; }
else
    limited() { "$@"; }
fi

note() { printf '%s\n' "$*" >>"$manifest"; }

# ---- what a read can end in ----------------------------------------------------------------------

# Sets $number to the errno (Linux, errno(3)) of a failed command: its exit code, its complaint.
find_errno() {
    case $1 in 124 | 137 | 143) # ended by `timeout`
        number=110
        return
        ;;
    esac
    complaint=$(cat "$said")
    case $complaint in
    *'Operation not permitted'*) number=1 ;;
    *'No such file or directory'*) number=2 ;;
    *'No such process'*) number=3 ;;
    *'No such device or address'*) number=6 ;;
    *'Permission denied'*) number=13 ;;
    *'Device or resource busy'* | *'Resource busy'*) number=16 ;;
    *'No such device'*) number=19 ;;
    *'Not a directory'*) number=20 ;;
    *'Is a directory'*) number=21 ;;
    *'Invalid argument'*) number=22 ;;
    *'Too many levels of symbolic links'* | *'Symbolic link loop'*) number=40 ;;
    *'No data available'*) number=61 ;;
    *'Operation not supported'* | *'Not supported'*) number=95 ;;
    *) number=5 ;;
    esac
}

# Notes an error under the path that was asked for and under the real one.
note_error() {
    note "error $1 $2"
    [ "$2" = "$3" ] || note "error $1 $3"
}

# ---- links and directories -----------------------------------------------------------------------

make_parent() {
    [ -d "$tree${1%/*}" ] || mkdir -p "$tree${1%/*}"
}

# Keeps a link as it is; its text is then in $text.
keep_link() {
    text=$(readlink "$root$1") || return 1
    if [ ! -h "$tree$1" ]; then
        make_parent "$1"
        ln -s "$text" "$tree$1"
    fi
}

# Follows a path part by part and keeps every link on the way. $real is then the path without
# links; when something is missing (status 1), the first part that is.
follow() {
    todo=$1
    real=
    hops=0
    while [ -n "$todo" ]; do
        part=${todo%%/*}
        case $todo in
        */*) todo=${todo#*/} ;;
        *) todo= ;;
        esac
        case $part in
        '' | .) continue ;;
        ..)
            real=${real%/*}
            continue
            ;;
        esac
        real=$real/$part
        if [ -h "$root$real" ]; then
            hops=$((hops + 1))
            [ "$hops" -le 40 ] || return 1
            keep_link "$real" || return 1
            case $text in
            /*) real= ;;
            *) real=${real%/*} ;;
            esac
            todo=$text/$todo
        elif [ ! -e "$root$real" ]; then
            return 1
        fi
    done
}

# Notes why `follow` could not reach a path.
note_missing() {
    if ls -d "$root$real" >/dev/null 2>"$said"; then
        number=5
    else
        find_errno $?
    fi
    note_error "$number" "$1" "$real"
}

# Notes that a directory exists, whatever is in it.
reach() {
    if ! follow "$1"; then
        note_missing "$1"
    elif [ -d "$root$real" ]; then
        mkdir -p "$tree$real"
    fi
}

# Lists a directory: all its names go into the manifest, and are then in $names, one a line.
list() {
    names=
    if ! follow "$1"; then
        note_missing "$1"
        return 1
    fi
    if [ ! -d "$root$real" ]; then
        note_error 20 "$1" "$real"
        return 1
    fi
    if limited ls -A -1 "$root$real" >"$work/names" 2>"$said"; then
        note "list $real"
        sed 's/^/ /' "$work/names" >>"$manifest"
        names=$(cat "$work/names")
    else
        find_errno $?
        note_error "$number" "$1" "$real"
        return 1
    fi
}

# ---- files ---------------------------------------------------------------------------------------

# Takes secrets out of configurations, and keeps the number of lines and arguments.
# $1 is conf (Proxmox), xml (libvirt), arguments (of a QEMU process, one a line), network, storage
# (Proxmox), volumes (LVM) or grub.
redact() {
    awk -v kind="$1" '
    function is_secret(name) {
        return tolower(name) ~ /pass|secret|token|credential|priv|sshkey|cikey|chap|(^|-)key$/
    }
    function words(text,    out, piece, name) { # without the values of password=... and its like
        out = ""
        while (match(text, /[A-Za-z0-9_-]+=("[^"]*"|\047[^\047]*\047|[^, \t\n]+)/)) {
            piece = substr(text, RSTART, RLENGTH)
            name = substr(piece, 1, index(piece, "=") - 1)
            out = out substr(text, 1, RSTART - 1)
            out = out (is_secret(name) ? name "=(redacted)" : piece)
            text = substr(text, RSTART + RLENGTH)
        }
        return out text
    }
    function argument(text) { # of options that are not known to be harmless nothing is kept
        if (text ~ /^-/) {
            option = text
            sub(/^-+/, "-", option)
            return words(text)
        }
        if (option ~ /^-(name|id|machine|M|cpu|m|accel|device|bios|mem-path)$/) return words(text)
        if (option == "-object" && text ~ /^memory-backend-/) return words(text)
        if (option ~ /^-(drive|blockdev|hd[abcd]|cdrom)$/) {
            if (option == "-drive" && text ~ /if=pflash/) return "if=pflash"
            if (!match(text, /\/dev\/[A-Za-z0-9_\/.:+@-]+/)) return "file="
            return "file=" substr(text, RSTART, RLENGTH)
        }
        return "(redacted)"
    }
    function lines(text) { # only the line ends of a text
        gsub(/[^\n]/, "", text)
        return text
    }
    function attributes(text,    out, piece, name, value, quote) {
        out = ""
        while (match(text, /[A-Za-z0-9_:.-]+[ \t\n]*=[ \t\n]*("[^"]*"|\047[^\047]*\047)/)) {
            piece = substr(text, RSTART, RLENGTH)
            out = out substr(text, 1, RSTART - 1)
            text = substr(text, RSTART + RLENGTH)
            match(piece, /[ \t\n]*=[ \t\n]*/)
            name = substr(piece, 1, RSTART - 1)
            value = substr(piece, RSTART + RLENGTH + 1)
            value = substr(value, 1, length(value) - 1)
            quote = substr(piece, length(piece))
            if (is_secret(name) || (name == "value" && value ~ /^secret/))
                value = "(redacted)" lines(value)
            else if (name == "value")
                value = words(value)
            out = out name "=" quote value quote
        }
        return out text
    }
    function emptied(text, name,    out, place, stop, inside) { # elements without their content
        out = ""
        while (match(text, "<" name "[ \t\n>]")) {
            place = RSTART + RLENGTH - 1
            stop = index(substr(text, place), ">")
            if (!stop) break
            place = place + stop - 1
            out = out substr(text, 1, place)
            inside = substr(text, place - 1, 1) != "/"
            text = substr(text, place + 1)
            if (inside) {
                stop = index(text, "</" name ">")
                if (!stop) return out lines(text)
                # which system the guest is, the one thing in the metadata that a check wants
                inside = substr(text, 1, stop - 1)
                if (name == "metadata" && match(inside, system_id)) {
                    out = out lines(substr(inside, 1, RSTART))
                    place = substr(inside, RSTART, RLENGTH)
                    sub(/^[^=]*=/, "", place)
                    out = out "<os id=" place "/>"
                    inside = substr(inside, RSTART + RLENGTH)
                }
                out = out lines(inside)
                text = substr(text, stop)
            }
        }
        return out text
    }
    BEGIN {
        system_id = "<([A-Za-z0-9_-]+:)?os[ \t\n]+id=(\"[A-Za-z0-9_:/.+-]*\"|\047[A-Za-z0-9_:/.+-]*\047)"
    }
    # network configurations and units: lines about virtual functions, and of which interface
    kind == "network" {
        sub(/[ \t\r]+$/, "")
        if (/sriov_numvfs|SR-IOVVirtualFunctions|virtual-function-count|total-vfs/ ||
            /^[ \t]*(\[[A-Za-z0-9_-]+\]|[A-Za-z0-9_.@-]+:)$/ ||
            /^[ \t]*(interface-name|Path|OriginalName|(Permanent)?MACAddress)[ \t]*=/) print
        else if (/^[ \t]*(iface|auto|allow-hotplug)[ \t]/) print $1, $2
        else print ""
        next
    }
    # storages of Proxmox and their volume groups
    kind == "storage" {
        if (/^[A-Za-z0-9_]+:[ \t]*[^ \t]+[ \t]*$/ ||
            /^[ \t]+(vgname|thinpool|nodes|disable|content)([ \t]|$)/) print
        else print ""
        next
    }
    kind == "volumes" { print /^[ \t]*device = "\/dev\/[^"]*"/ ? $0 : ""; next }
    kind == "grub" { print /password/ ? "#" : $0; next }
    kind == "arguments" { print NR == 1 ? $0 : argument($0); next }
    kind == "xml" { all = all $0 "\n"; next }
    /^[ \t]*#/ { print "#"; next }
    /^[ \t]*(\[.*)?$/ { print; next }
    !/^[ \t]*[A-Za-z][A-Za-z_-]*[0-9]*:/ { print "(redacted)"; next }
    {
        sub(/^[ \t]+/, "")
        name = substr($0, 1, index($0, ":") - 1)
        value = substr($0, index($0, ":") + 1)
        sub(/^[ \t]+/, "", value)
        if (is_secret(name) || tolower(name) == "description") value = "(redacted)"
        else if (name == "args") {
            count = split(value, parts, /[ \t]+/)
            option = value = ""
            for (i = 1; i <= count; i++) value = value (i > 1 ? " " : "") argument(parts[i])
        } else value = words(value)
        print name ": " value
    }
    END {
        if (kind != "xml") exit
        all = attributes(all)
        count = split("description metadata launchSecurity passwd password", parts, " ")
        for (i = 1; i <= count; i++) all = emptied(all, parts[i])
        printf "%s", all
    }'
}

# Copies one file whose real path is known; complains into the manifest.
copy() {
    if [ "$1" = /dev/null ]; then # what a masked unit is a link to
        make_parent "$1"
        : >"$tree$1"
        return
    fi
    if [ ! -f "$root$1" ]; then
        number=22
        [ ! -d "$root$1" ] || number=21
        note "error $number $1"
        return 1
    fi
    make_parent "$1"
    copied=$tree$1
    kind=
    case $1 in
    /etc/pve/*.conf) kind=conf ;;
    /etc/libvirt/*.xml) kind=xml ;;
    /etc/pve/storage.cfg) kind=storage ;;
    /etc/lvm/backup/*) kind=volumes ;;
    /etc/network/* | /etc/netplan/* | /etc/NetworkManager/* | /etc/systemd/network/* | \
        /etc/systemd/system/*) kind=network ;;
    /boot/*/grub.cfg) kind=grub ;;
    esac
    [ -z "$kind" ] || copied=$work/raw
    if limited cat "$root$1" >"$copied" 2>"$said"; then
        [ -z "$kind" ] || {
            redact "$kind" <"$copied" >"$tree$1"
            rm -f "$copied"
        }
    else
        find_errno $?
        note "error $number $1"
        rm -f "$copied"
        return 1
    fi
}

# Copies files by the paths under which they are known.
keep() {
    for path in "$@"; do
        if ! follow "$path"; then
            note_missing "$path"
        elif ! copy "$real"; then
            [ "$path" = "$real" ] || note "error $number $path"
        fi
    done
}

# Copies a file of a process to where another process would find its own.
keep_own() {
    make_parent "$1"
    if ! limited cat "$root$1" >"$tree$1" 2>"$said"; then
        find_errno $?
        note "error $number $1"
        rm -f "$tree$1"
    fi
}

# Copies what a sed program prints of a file in /proc.
keep_part() {
    make_parent "$2"
    if ! limited sed "$1" "$root$2" >"$tree$2" 2>"$said"; then
        find_errno $?
        note "error $number $2"
        rm -f "$tree$2"
    fi
}

# Notes when files were changed, in seconds since 1970.
keep_time() {
    for path in "$@"; do
        if ! follow "$path"; then
            note_missing "$path"
        elif seconds=$(limited stat -c %Y "$root$real" 2>"$said"); then
            note "modified $seconds $path"
        else
            find_errno $?
            note_error "$number" "$path" "$real"
        fi
    done
}

# Lists a directory and copies the files in it whose names fit a shell pattern.
keep_in() {
    list "$1" || return 0
    for name in $names; do
        # shellcheck disable=SC2254 # a pattern is meant
        case $name in
        $2) keep "$1/$name" ;;
        esac
    done
}

# Copies all files that a list names (real paths). A read of a device that is held or reset may not
# even be interruptible, so another process reads: when it stands still it is left alone, that file
# is given up, and a new one goes on with the next.
copy_all() {
    total=$(wc -l <"$1")
    first=1
    while [ "$first" -le "$total" ]; do
        rm -f "$work/done"
        : >"$work/at"
        copy_from "$first" "$1" </dev/null >/dev/null 2>&1 &
        worker=$!
        if watch_worker; then
            return
        fi
        kill "$worker" 2>/dev/null
        first=$((first + $(wc -l <"$work/at")))
        path=$(sed -n "$((first - 1))p" "$1")
        rm -f "$tree$path"
        note "error 110 $path"
    done
}

copy_from() {
    said=$work/said.$1
    tail -n "+$1" "$2" >"$work/todo"
    while IFS= read -r path; do
        echo "$path" >>"$work/at"
        copy "$path" || :
    done <"$work/todo"
    : >"$work/done"
}

# Status 1 when the worker of `copy_all` stands still for longer than a read may take.
watch_worker() {
    seen=
    still=0
    while [ ! -e "$work/done" ]; do
        if sleep 0.1 2>/dev/null; then tick=1; else sleep 1; tick=10; fi
        now=$(wc -l <"$work/at")
        still=$((still + tick))
        [ "$now" = "$seen" ] || still=0
        seen=$now
        [ "$still" -lt $(((PATIENCE + 2) * 10)) ] || return 1
    done
}

# ==== the host ====================================================================================

user=$(id -u)
echo vfioctl.gather/v1 >"$manifest"
note "uid $user"
[ "$user" = 0 ] || say "gather.sh: not root: config space and the kernel log may stay unread"

say "gather.sh: host and firmware"
keep /proc/sys/kernel/hostname /etc/hostname \
    /proc/sys/kernel/osrelease /proc/sys/kernel/version /proc/sys/kernel/arch /proc/version \
    /proc/sys/kernel/random/boot_id /proc/uptime /proc/cmdline /proc/meminfo \
    /proc/interrupts /proc/iomem /proc/modules /proc/swaps /proc/bus/input/devices
keep_part '/^$/q' /proc/cpuinfo # the first processor: each further one is asked for its clock
keep_part 1q /proc/stat
keep /proc/diskstats /sys/devices/system/cpu/isolated /sys/devices/system/cpu/nohz_full \
    /sys/fs/cgroup/system.slice/irqbalance.service/cgroup.procs \
    /sys/fs/cgroup/systemd/system.slice/irqbalance.service/cgroup.procs /run/irqbalance.pid
list /run/irqbalance

# The kernel log with its levels, so that lines of programs can be told from the kernel's own.
if [ -n "$root" ]; then
    keep /dmesg
elif limited dmesg -r >"$tree/dmesg" 2>"$said" || limited dmesg >"$tree/dmesg" 2>"$said"; then
    :
else
    find_errno $?
    note "error $number /dmesg"
    rm -f "$tree/dmesg"
fi

dmi=/sys/class/dmi/id
keep $dmi/bios_vendor $dmi/bios_version $dmi/bios_date $dmi/sys_vendor $dmi/product_name \
    $dmi/product_uuid $dmi/board_name /sys/firmware/acpi/tables/DMAR /sys/firmware/acpi/tables/IVRS
list $dmi
list /sys/firmware/dmi/entries
if list /sys/devices/platform; then
    for name in $names; do
        case $name in
        ipmi_bmc.[0-9]*) keep "/sys/devices/platform/$name/firmware_revision" ;;
        esac
    done
fi
if list /sys/class/firmware-attributes; then
    for driver in $names; do
        folder=/sys/class/firmware-attributes/$driver/attributes
        list "$folder" || continue
        for name in $names; do
            case $name in
            pending_reboot | reset_bios | save_settings | debug_cmd) ;;
            *) keep "$folder/$name/current_value" ;;
            esac
        done
    done
fi

for number in $(sed -n 's/^ *\([0-9][0-9]*\):.*vfio-.*/\1/p' "$tree/proc/interrupts"); do
    keep "/proc/irq/$number/smp_affinity_list"
done
keep_in /proc/pressure '*'
for folder in /sys/kernel/mm/hugepages /sys/devices/system/node; do
    list $folder || continue
    for name in $names; do
        case $name in
        hugepages-*) sizes=$folder/$name ;;
        node[0-9]*)
            sizes=
            list "$folder/$name/hugepages" || continue
            for size in $names; do
                sizes="$sizes${sizes:+$IFS}$folder/$name/hugepages/$size"
            done
            ;;
        *) continue ;;
        esac
        for size in $sizes; do
            keep "$size/nr_hugepages" "$size/free_hugepages" "$size/resv_hugepages"
        done
    done
done

say "gather.sh: kernel modules and configuration"
if list /sys/module; then
    for module in $names; do
        case $module in
        iommufd | irqbypass | mdev | pci_stub | xen_pciback | kvm* | vfio* | *vfio_pci) ;;
        *) continue ;;
        esac
        folder=/sys/module/$module/parameters
        list "$folder" || continue
        for name in $names; do
            case $name in
            allow_unsafe_interrupts | disable_denylist | disable_hugepages | disable_idle_d3 | \
                disable_vga | dma_entry_limit | enable_sriov | enable_unsafe_noiommu_mode | ids | \
                nested | nointxmask)
                keep "$folder/$name"
                ;;
            esac
        done
    done
fi
keep /sys/module/vfio_pci/parameters/ids
release=$(cat "$tree/proc/sys/kernel/osrelease" 2>/dev/null)
[ -z "$release" ] || keep "/lib/modules/$release/modules.builtin"
keep /etc/default/grub /etc/kernel/cmdline /etc/modules /etc/initramfs-tools/modules \
    /etc/dracut.conf /etc/mkinitcpio.conf /etc/sysfs.conf /etc/rc.local
keep_in /etc/default/grub.d '*.cfg'
for folder in /boot/loader/entries /boot/efi/loader/entries /efi/loader/entries \
    /etc/modprobe.d /run/modprobe.d /usr/local/lib/modprobe.d /usr/lib/modprobe.d /lib/modprobe.d \
    /etc/modules-load.d /run/modules-load.d /usr/lib/modules-load.d \
    /etc/dracut.conf.d /usr/lib/dracut/dracut.conf.d /etc/sysfs.d /etc/tmpfiles.d; do
    keep_in "$folder" '*.conf'
done
keep_in /etc/udev/rules.d '*.rules'
keep_in /etc/systemd/network '*.link'
keep_in /etc/driverctl.d '*:*.[0-7]'
keep_in /etc/systemd/system '*.service'
keep_in /etc/network/interfaces.d '*'
keep_in /etc/netplan '*.yaml'
keep_in /etc/NetworkManager/system-connections '*.nmconnection'
keep /etc/network/interfaces
# which boot loader counts: the firmware is asked only where two are configured
keep /boot/grub/grub.cfg /boot/grub2/grub.cfg \
    /boot/loader/loader.conf /boot/efi/loader/loader.conf
keep /etc/kernel/proxmox-boot-uuids
if [ -e "$tree/etc/default/grub" ] && [ -e "$tree/etc/kernel/cmdline" ] &&
    ! grep -q -e BOOT_IMAGE= -e 'initrd=[\\]' "$tree/proc/cmdline"; then
    reach /sys/firmware/efi
    keep /sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f
fi
# whether the initial ramdisk is older than what it should hold
if [ -n "$release" ]; then
    flavour=${release##*-}
    keep_time "/boot/initrd.img-$release" "/boot/initramfs-$release.img" "/boot/initrd-$release" \
        "/boot/initramfs-$release" "/boot/initramfs-linux-$flavour.img" /boot/initramfs-linux.img
fi
for folder in /etc/modprobe.d /etc/dracut.conf.d; do
    list $folder || continue
    for name in $names; do
        case $name in *.conf) keep_time "$folder/$name" ;; esac
    done
done
keep_time /etc/initramfs-tools/modules /etc/dracut.conf /etc/mkinitcpio.conf

say "gather.sh: VM configurations"
keep_in /etc/pve/qemu-server '[0-9]*.conf'
keep /etc/pve/mapping/pci.cfg
keep_in /etc/libvirt/qemu '*.xml'
list /etc/libvirt/qemu/autostart

say "gather.sh: network"
if list /sys/class/net; then
    for name in $names; do
        [ "$name" = bonding_masters ] && continue
        keep "/sys/class/net/$name/address" "/sys/class/net/$name/flags"
        list "/sys/class/net/$name"
    done
fi
for name in route ipv6_route fib_trie if_inet6; do
    keep_own /proc/1/net/$name
    keep_own /proc/net/$name
done

say "gather.sh: storage"
list /dev
if list /sys/class/block; then
    for name in $names; do
        disk=/sys/class/block/$name
        reach "$disk"
        place=$real
        [ -d "$root$place" ] || continue
        keep "$place/dev"
        case $name in
        loop*) keep "$place/loop/backing_file" ;;
        nbd*) keep "$place/pid" ;;
        zram*) keep "$place/backing_dev" ;;
        dm-*)
            keep "$place/dm/name"
            list "$place/slaves"
            ;;
        md*)
            keep "$place/md/level"
            list "$place/slaves"
            ;;
        esac
        case $place in
        */nvme-subsystem/*)
            list "${place%/*}" || continue
            for controller in $names; do
                case $controller in
                nvme[0-9]*)
                    follow "${place%/*}/$controller" || continue
                    reach "$real"
                    case $real in */nvme-fabrics/*) keep "$real/transport" ;; esac
                    ;;
                esac
            done
            ;;
        */nvme-fabrics/*) keep "${place%/*}/transport" ;;
        esac
    done
fi
for name in 1/mountinfo self/mountinfo mounts self/mounts; do
    keep_own /proc/$name
done
# disks in use without a mount: ZFS pools, Ceph OSDs, volume groups of Proxmox
keep /etc/zfs/zpool.cache /etc/pve/storage.cfg
if list /proc/spl/kstat/zfs; then
    for name in $names; do
        list "/proc/spl/kstat/zfs/$name"
    done
fi
if list /var/lib/ceph; then
    for name in $names; do
        case $name in
        osd) wanted='*' ;;
        ????????-????-????-????-????????????) wanted='osd.*' ;;
        *) continue ;;
        esac
        list "/var/lib/ceph/$name" || continue
        for osd in $names; do
            # shellcheck disable=SC2254 # a pattern is meant
            case $osd in
            $wanted)
                for disk in block block.db block.wal; do
                    place=/var/lib/ceph/$name/$osd/$disk
                    follow "$place" || note_missing "$place"
                done
                ;;
            esac
        done
    done
fi
for name in $(sed -n 's/^[[:space:]]*vgname[[:space:]][[:space:]]*//p' \
    "$tree/etc/pve/storage.cfg" 2>/dev/null); do
    case $name in */*) ;; *) keep "/etc/lvm/backup/$name" ;; esac
done
# where the disks are that all those name, and the layers of overlays
cat "$tree/proc/1/mountinfo" "$tree/proc/self/mountinfo" "$tree/proc/mounts" "$tree/proc/swaps" \
    2>/dev/null >"$work/mounts"
for folder in etc/zfs etc/lvm/backup etc/pve/qemu-server etc/libvirt/qemu; do
    [ ! -d "$tree/$folder" ] ||
        find "$tree/$folder" -type f -exec cat {} + | tr -c '!-~' '\n' >>"$work/mounts"
done
for path in $(grep -o '/dev/[^][ ,;<>"'"'"'(){}]*' "$work/mounts" | sort -u); do
    follow "$path" || note_missing "$path"
done
for path in $(grep -oE '(lowerdir\+?|datadir\+|upperdir|workdir)=[^, ]*' "$work/mounts" |
    sed 's/^[^=]*=//' | tr ':' '\n' | sort -u); do
    case $path in /*) reach "$path" ;; esac
done
if list /sys/fs/btrfs; then
    for name in $names; do
        [ "$name" = features ] || list "/sys/fs/btrfs/$name/devices"
    done
fi
if list /sys/fs/virtiofs; then
    for name in $names; do
        keep "/sys/fs/virtiofs/$name/tag"
        reach "/sys/fs/virtiofs/$name/device"
    done
fi
for driver in 9pnet_virtio virtiofs; do
    folder=/sys/bus/virtio/drivers/$driver
    list $folder || continue
    for name in $names; do
        case $name in
        virtio[0-9]*)
            reach "$folder/$name"
            [ $driver = virtiofs ] || keep "$folder/$name/mount_tag"
            ;;
        esac
    done
done

# ---- who uses devices ----------------------------------------------------------------------------

say "gather.sh: processes"
: >"$work/held" # nodes below /dev/vfio that some process has open
holders_known=yes
nodes=
if list /dev/vfio; then
    nodes=$(printf '%s\n' "$names" | grep -v -e '^vfio$' -e '^devices$')
    case $IFS$names$IFS in *"${IFS}devices$IFS"*) list /dev/vfio/devices && nodes=$nodes$names ;; esac
fi
if [ -h "$root/proc/1/ns/pid" ]; then
    keep_link /proc/1/ns/pid 2>/dev/null || : # it tells a container's process table
else
    follow /proc/1/ns/pid || note_missing /proc/1/ns/pid
fi
processes=$(ls "$root/proc" | grep '^[0-9][0-9]*$')
keep_process() {
    for name in comm cgroup stat status limits; do
        keep_own "/proc/$1/$name"
    done
    case $kept in *" $1 "*) ;; *) kept="$kept$1 " ;; esac
}
kept=' '
for process in $processes; do
    command=
    IFS= read -r command 2>/dev/null <"$root/proc/$process/comm" || continue
    case $command in
    kvm | qemu*)
        keep_own "/proc/$process/comm"
        kept="$kept$process "
        if limited cat "$root/proc/$process/cmdline" >"$work/raw" 2>"$said"; then
            tr '\n\0' '\1\n' <"$work/raw" | redact arguments | tr '\1\n' '\n\0' \
                >"$tree/proc/$process/cmdline"
        else
            find_errno $?
            note "error $number /proc/$process/cmdline"
        fi
        rm -f "$work/raw"
        ;;
    esac
done
if [ -n "$nodes" ]; then
    for process in $processes; do
        folder=/proc/$process/fd
        if limited ls -l "$root$folder" >"$work/open" 2>"$said"; then
            :
        elif grep -q 'Permission denied' "$said"; then
            [ $holders_known = no ] || kept="$kept$process "
            [ $holders_known = no ] || note "error 13 $folder"
            holders_known=no
            continue
        fi
        grep -q -- '-> /dev/vfio/' "$work/open" || continue
        sed -n 's/^.* \([0-9][0-9]*\) -> \(\/dev\/vfio\/.*\)$/\1 \2/p' "$work/open" >"$work/links"
        : >"$work/numbers"
        while IFS=' ' read -r number node; do
            [ "$node" != /dev/vfio/vfio ] || continue
            make_parent "$folder/$number"
            ln -s "$node" "$tree$folder/$number"
            echo " $number" >>"$work/numbers"
            echo "${node% (deleted)}" >>"$work/held"
        done <"$work/links"
        if [ -s "$work/numbers" ]; then
            note "list $folder"
            cat "$work/numbers" >>"$manifest"
            keep_process "$process"
        fi
    done
fi
# of the process table only those
note "list /proc"
ls -A -1 "$root/proc" | grep -v '^[0-9][0-9]*$' | sed 's/^/ /' >>"$manifest"
printf '%s\n' "$kept" | tr ' ' '\n' | sed '/^$/d; s/^/ /' >>"$manifest"

# ---- IOMMU groups and PCI functions --------------------------------------------------------------

say "gather.sh: IOMMU groups"
if list /sys/class/iommu; then
    for unit in $names; do
        keep "/sys/class/iommu/$unit/intel-iommu/cap"
    done
fi
groups=/sys/kernel/iommu_groups
if list $groups; then
    for group in $names; do
        keep "$groups/$group/name" "$groups/$group/type" "$groups/$group/reserved_regions"
        list "$groups/$group/devices"
    done
fi

say "gather.sh: PCI functions"
: >"$work/quiet"
: >"$work/places"
devices=/sys/bus/pci/devices
if list $devices; then
    for address in $names; do
        follow "$devices/$address" || continue
        place=$real
        echo "$place" >>"$work/places"
        list "$place" || continue
        for name in $names; do
            case $name in
            vendor | device | subsystem_vendor | subsystem_device | class | revision | resource | \
                driver_override | numa_node | reset_method | boot_vga | sriov_totalvfs | \
                sriov_numvfs | power_state | aer_dev_fatal | aer_dev_nonfatal | aer_dev_correctable)
                echo "$place/$name" >>"$work/quiet"
                ;;
            power) echo "$place/power/runtime_status" >>"$work/quiet" ;;
            driver | iommu_group | physfn | virtfn[0-9]*) keep_link "$place/$name" ;;
            esac
        done
        case $IFS$names$IFS in *"${IFS}vfio-dev$IFS"*) list "$place/vfio-dev" ;; esac
        bridge=${place#/sys/devices/}
        echo "/sys/devices/${bridge%%/*}" >>"$work/bridges"
        # a host bridge below a function (Intel VMD)
        echo "$place" | sed -n 's|^\(.*/pci[0-9a-f]*:[0-9a-f][0-9a-f]\)/.*|\1|p' >>"$work/bridges"
    done
    for bridge in $(sort -u "$work/bridges" 2>/dev/null); do
        keep "$bridge/firmware_node/path"
    done
fi
copy_all "$work/quiet"

# Configuration space and link state wake a sleeping device and all bridges above it. So they are
# read of a device that is awake, and of one that sleeps only if nobody uses it.
: >"$work/waking"
while IFS= read -r place; do
    state=unknown
    status=unknown
    read -r state 2>/dev/null <"$tree$place/power_state" || :
    read -r status 2>/dev/null <"$tree$place/power/runtime_status" || :
    asleep=no
    case $state in
    D0) ;;
    D[123]*) asleep=yes ;;
    *) [ "$status" != suspended ] || asleep=yes ;;
    esac
    attributes="config${IFS}max_link_speed${IFS}max_link_width"
    if [ $asleep = yes ]; then
        if [ "$state" = D3cold ] && [ "$wake" != yes ]; then
            note "left $place/config: it has no power (D3cold); WAKE=yes reads it too"
            continue
        fi
        driver=$(readlink "$tree$place/driver" 2>/dev/null)
        group=$(readlink "$tree$place/iommu_group" 2>/dev/null)
        used=no
        grep -q -x -e "/dev/vfio/\(noiommu-\)\{0,1\}${group##*/}" "$work/held" && used=yes
        for node in $(ls -A -1 "$root$place/vfio-dev" 2>/dev/null); do
            grep -q -x -F "/dev/vfio/devices/$node" "$work/held" && used=yes
        done
        case $holders_known,${driver##*/} in no,*vfio*) used=perhaps ;; esac
        if [ $used != no ]; then
            note "left $place/config: it sleeps and is in use ($used)"
            continue
        fi
    else
        attributes="$attributes${IFS}current_link_speed${IFS}current_link_width"
    fi
    for name in $attributes; do
        [ ! -f "$root$place/$name" ] || echo "$place/$name" >>"$work/waking"
    done
done <"$work/places"
copy_all "$work/waking"

# All ones may be a device that was just coming up: such a one is read a second time.
: >"$work/again"
for path in $(grep '/config$' "$work/waking"); do
    [ -s "$tree$path" ] || continue
    [ "$(tr -d '\377' <"$tree$path" | wc -c)" -gt 0 ] || echo "$path" >>"$work/again"
done
copy_all "$work/again"

# ---- one file ------------------------------------------------------------------------------------

note end
say "gather.sh: packing"
part=$target.part.$$
tar -C "$tree" -cf "$work/all.tar" . || die "tar failed"
gzip -c "$work/all.tar" >"$part" || { rm -f "$part"; die "$target cannot be written"; }
mv "$part" "$target" || { rm -f "$part"; die "$target cannot be written"; }
unread=$(grep '^error ' "$manifest" | grep -c -v '^error 2 ')
say "gather.sh: wrote $target ($(find "$tree" -type f | wc -l) files, $unread could not be read)"
say "Judge it:  vfioctl check --root $target"
[ "$user" = 0 ] || say "As root it sees more:  sudo sh gather.sh"
