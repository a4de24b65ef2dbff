# $1 is 0 if the package is removed, and 1 before an upgrade.
if [ "$1" = 0 ] && command -v systemctl >/dev/null; then
    systemctl --no-reload disable si-refresh.timer si-tardiff.service >/dev/null 2>&1 || :
    if [ -d /run/systemd/system ]; then
        systemctl stop si-refresh.timer si-tardiff.service >/dev/null 2>&1 || :
    fi
fi
