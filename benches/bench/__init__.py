"""Whole processes against each other: si_tardiff and si_updateclient beside what else updates a tree.

From below to above:

  timed       runs one command in a process of its own and weighs it (a script)
  measure     starts that script, reads what it found, explains a failure
  relay       a wire with a delay, for kernels without netem (a script)
  network     two namespaces and the wire between them, with the interface's counters
  disk        the filesystem of the node, made anew before each update
  daemons     the web server and the rsync daemon: their seconds and their memory
  images      makes the image generations
  changes     what differs between two trees: for the peers that need a list (a script, too)
  peers/      one file for each way to bring a node from OLD to NEW
  proposal    the table of the original proposal: build times from a cold disk
  course      takes the turns: builds, resets, updates, judges
  results     what was measured, kept as JSON after every step
  targets     the ratios that are to be reached
  report      Markdown
  plot        SVG
  machine     what it ran on
"""
