#!/bin/sh
# dracut sources this file into its own shell, so nothing here may exit. A failure is printed on the
# console and does not stop the boot.
/usr/sbin/si-recover-root "${NEWROOT:-/sysroot}" || :
