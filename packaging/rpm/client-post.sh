# Enables and starts no unit, and rebuilds no initramfs: `dracut --force` does that.
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null 2>&1 || :
fi
if command -v systemd-tmpfiles >/dev/null; then
    systemd-tmpfiles --create systemimager-diff-client.conf >/dev/null 2>&1 || :
fi
