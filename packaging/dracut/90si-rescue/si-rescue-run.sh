#!/bin/sh
# Runs the rescue system, once the network is up. It ends the machine; the boot does not go on.
/usr/lib/si-rescue/si-rescue run
