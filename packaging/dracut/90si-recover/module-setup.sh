#!/bin/bash
# Installs the recovery of an interrupted update into the initramfs; it runs before the root is booted.

agent=/usr/sbin/si_updateclient

# called by dracut
check() {
    require_binaries "$agent" mount || return 1
    return 0
}

# called by dracut
depends() {
    return 0
}

# called by dracut
install() {
    # shellcheck disable=SC2154 # dracut sets moddir
    local from=$moddir
    inst_multiple mount
    inst "$agent" /usr/sbin/si_updateclient
    inst_script "$from/si-recover-root" /usr/sbin/si-recover-root
    # Before the hooks that read the root's files, such as the one that loads its SELinux policy (50).
    inst_hook pre-pivot 10 "$from/si-recover-hook.sh"
}
