#!/bin/sh
# dracut reads this into its own shell: nothing here may end it, and a failure, which is told on the
# console, does not stop the boot.
/usr/sbin/si-recover-root "${NEWROOT:-/sysroot}" || :
