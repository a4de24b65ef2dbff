# $1 is 0 after a removal, and 1 after an upgrade.
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null 2>&1 || :
    if [ "$1" -ge 1 ]; then
        systemctl try-restart si-tardiff.service >/dev/null 2>&1 || :
    fi
fi
