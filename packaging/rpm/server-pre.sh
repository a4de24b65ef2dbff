# The files of sysusers.d are not installed yet; this line is that of si-tardiff.conf.
if command -v systemd-sysusers >/dev/null; then
    echo 'u si-tardiff - "Server of image diffs" /var/lib/systemimager/repository' |
        systemd-sysusers --replace=/usr/lib/sysusers.d/si-tardiff.conf - >/dev/null || :
fi
