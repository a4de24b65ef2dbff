# Enables and starts no unit.
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null 2>&1 || :
fi
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create systemimager-diff-server.conf >/dev/null 2>&1 || :
fi
