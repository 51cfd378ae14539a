# shellcheck shell=dash
# What the tests' guest scripts have in common. Sourced first; the scripts run as root in /work with `sh -eu`.

# wait_for SECONDS COMMAND...: until COMMAND succeeds.
wait_for() {
    tries=$(($1 * 50))
    shift
    while ! "$@" >/dev/null 2>&1; do
        tries=$((tries - 1))
        if [ "$tries" -le 0 ]; then
            echo "guest: still not so: $*"
            return 1
        fi
        sleep 0.02
    done
}

# usb_devices VENDOR:PRODUCT: the port paths of such devices, one a line; fails if there are none.
usb_devices() {
    status=1
    for device in /sys/bus/usb/devices/*; do
        [ -e "$device/idVendor" ] || continue
        if [ "$(cat "$device/idVendor"):$(cat "$device/idProduct")" = "$1" ]; then
            echo "${device##*/}"
            status=0
        fi
    done
    return $status
}

# start_udevd: as a booted host has it, with the devices that are there already settled.
start_udevd() {
    /usr/lib/systemd/systemd-udevd --daemon
    udevadm trigger --action=add
    udevadm settle
}

# install_udev_rules FILE: as a person would; devices that are there already are triggered anew.
install_udev_rules() {
    cp "$1" /etc/udev/rules.d/
    udevadm control --reload
    udevadm trigger --action=add --subsystem-match=usb --subsystem-match=tty
    udevadm settle
}

# join_group GROUP: the ordinary user becomes a member of it.
join_group() {
    sed -i "s/^$1:[^:]*:[^:]*:..*/&,user/; s/^$1:[^:]*:[^:]*:\$/&user/" /etc/group
}

# as_user COMMAND...: as an ordinary user (uid 1000).
as_user() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    su user -s /bin/sh -c 'exec "$@"' -- sh "$@"
}
