#!/bin/bash
# Installs the rescue system into an initramfs that `make rescue` makes.

# The directory with the agent, the scripts, keys and arguments.
from=${SI_RESCUE_PAYLOAD:-}

# called by dracut; 255: only if it is asked for
check() {
    [ -n "$from" ] || return 1
    require_binaries mount umount blkid || return 1
    return 255
}

# called by dracut
depends() {
    echo base network
}

# called by dracut
installkernel() {
    # Drivers for any machine, not for the one that builds.
    local drivers=(net block ata scsi nvme usb/storage usb/host md virtio message)
    hostonly='' instmods "${drivers[@]/#/=drivers/}" ext4 xfs btrfs f2fs vfat exfat isofs udf \
        nls_cp437 nls_ascii nls_iso8859-1 nls_utf8 efivarfs
}

# called by dracut
install() {
    local name key
    inst_multiple mount umount blkid sleep mkdir mv touch cat sync sh
    inst_multiple -o findfs logger modprobe lvm mdadm rsync reboot poweroff btrfs fsck.ext2 fsck.ext3 \
        fsck.ext4 fsck.f2fs fsck.vfat fsck.exfat
    inst "$from/si_updateclient" /usr/sbin/si_updateclient
    for name in si-rescue si-filesystems; do
        inst_script "$from/$name" "/usr/lib/si-rescue/$name"
    done
    inst_simple "$from/si-rescue.conf" /etc/si-rescue.conf
    for key in "$from"/keys/*.pub; do
        [ ! -e "$key" ] || inst_simple "$key" "/etc/systemimager/keys/${key##*/}"
    done
    inst_simple /etc/ssl/certs/ca-certificates.crt 2>/dev/null || :
    # Before the network module reads its arguments (98), and in place of the mount of a root.
    # shellcheck disable=SC2154 # dracut sets moddir
    inst_hook cmdline 20 "$moddir/si-rescue-cmdline.sh"
    inst_hook pre-mount 10 "$moddir/si-rescue-run.sh"
}
