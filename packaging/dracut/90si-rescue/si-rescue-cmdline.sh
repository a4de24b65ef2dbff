#!/bin/sh
# dracut sources this file. No root is mounted: the rescue system does its job instead.
# shellcheck disable=SC2034 # dracut reads both
root=si-rescue rootok=1
if /usr/lib/si-rescue/si-rescue needs-network; then
    mkdir -p /etc/cmdline.d
    {
        echo rd.neednet=1
        getarg ip= >/dev/null || echo ip=dhcp
    } >/etc/cmdline.d/50-si-rescue.conf
fi
