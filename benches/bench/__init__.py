"""Compares whole processes: si_tardiff and si_updateclient beside other ways to update a tree.

From the lowest layer to the highest:

  timed       runs one command in a process of its own and measures it (a script)
  measure     starts that script, reads its result, explains a failure
  relay       a wire with a delay, for kernels without netem (a script)
  network     two namespaces and the wire between them, with the interface's counters
  disk        the filesystem of the node, made before each update
  daemons     the web server and the rsync daemon: their seconds and their memory
  images      makes the image generations
  changes     the differences of two trees, for peers that need a list (also a script)
  peers/      one file for each way to bring a node from OLD to NEW
  proposal    the table of the original proposal: build times from a cold disk
  course      runs the turns: builds, resets, updates, comparisons
  results     the measurements, saved as JSON after each step
  targets     the target ratios
  report      Markdown
  plot        SVG
  machine     machine and versions of a run
"""
