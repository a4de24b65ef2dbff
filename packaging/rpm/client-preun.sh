# $1 is 0 if the package is removed, and 1 before an upgrade. State and changed configuration stay.
if [ "$1" = 0 ] && command -v systemctl >/dev/null; then
    systemctl --no-reload disable si-update.timer si-download.timer si-switch.timer si-recover.service si-boot-loader-due.service >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ]; then
        systemctl stop si-update.timer si-update.service si-download.timer si-download.service \
            si-switch.timer si-switch.service >/dev/null 2>&1 || :
    fi
fi
