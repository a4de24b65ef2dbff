#!/bin/bash
# Installs the recovery of an interrupted update into the initramfs; it runs before the root is booted.

agent=/usr/sbin/si_updateclient

# called by dracut
check() {
    require_binaries "$agent" mount umount || return 1
    return 0
}

# called by dracut
depends() {
    return 0
}

# called by dracut
installkernel() {
    # All types of filesystem that an update changes: the initramfs may be built on an image, whose fstab
    # is not that of the node.
    hostonly='' instmods ext4 xfs btrfs f2fs vfat exfat nls_cp437 nls_ascii nls_iso8859-1 nls_utf8
}

# called by dracut
install() {
    # shellcheck disable=SC2154 # dracut sets moddir
    local from=$moddir
    inst_multiple mount umount
    inst_multiple -o blkid findfs modprobe sleep fsck.ext2 fsck.ext3 fsck.ext4 fsck.f2fs fsck.vfat \
        fsck.exfat
    inst "$agent" /usr/sbin/si_updateclient
    inst_script "$from/si-recover-root" /usr/sbin/si-recover-root
    inst_simple "$from/si-filesystems" /usr/sbin/si-filesystems
    # Before the hooks that read the root's files, such as the one that loads its SELinux policy (50).
    inst_hook pre-pivot 10 "$from/si-recover-hook.sh"
}
