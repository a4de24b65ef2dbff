# make            the two programs, in target/release
# make static     programs that need no library, loader or device of the system, in target/static;
#                 TARGET=aarch64-unknown-linux-gnu for other processors, in target/static-TARGET
# make test       all checks of CI; installs missing tools
# make test-static         static programs in an empty root directory; a part of the tests with them; minutes
# make test-machines       one node in an emulator: boots, updates, goes back, loses power; 15 minutes
# make test-machines-long  more nodes and more faults; hours
# make torture    kills, power cuts and faults by the thousand; takes hours, see scripts/torture for less
# make demo       two generations of this machine's files, an update, a fallback, compared by rsync
# make bench      compares with rsync, OSTree and others on Debian 12 and 13; takes hours, see docs/benchmarks.md for less
# make bench-growth       times these programs alone, on trees of ten thousand to a million entries
# make deb        packages for Debian, in target/packages
# make rpm        packages for Fedora, RHEL, SUSE and others with rpm, in target/packages
# make test-packages      builds both, installs, upgrades, removes and purges them in scratch systems
# make dist       source archive with all dependencies, which builds without a network
# make man        manual pages and completions of shells, in target/man and target/completions
# make rescue     rescue system for broken nodes, in target/rescue: see docs/rescue.md
# make install    PREFIX=/usr DESTDIR=
# make install-timer      the daily update, by systemd or cron: see packaging/README.md
# make install-recovery   recovery of an interrupted update at boot: see packaging/README.md
# make install-rescue     files that make a rescue system without the sources: see docs/rescue.md
# make install-server     unit of `si_tardiff serve`, settings for nginx and Apache: see packaging/README.md

PREFIX  ?= /usr
DESTDIR ?=
CARGO   ?= cargo
# working directory and further arguments of benchmarks: make bench BENCH='--quick --pairs g1-g2'
# arguments of the benchmark of full syncs: make bench HEAL='--quick'
BENCH_DIR ?= target/bench
BENCH   ?=
HEAL    ?=
export PATH := $(HOME)/.cargo/bin:$(PATH)

# Changes that a package of a site has beyond a release: make deb REVISION=2site1
REVISION ?= 1
# Times of files in packages and source archives: the last commit, else the changelog. Not exported,
# since each new value would build the C parts of crates again.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.md)
DATED = SOURCE_DATE_EPOCH=$(SOURCE_DATE_EPOCH)

.PHONY: all static test test-static test-machines test-machines-long torture demo bench bench-growth deb rpm \
    package-files test-packages dist man \
    install install-recovery install-rescue install-timer rescue install-server clean

all:
	$(CARGO) build --release --locked

# Target of rustc for `make static`; by default this machine's.
TARGET ?=

static:
	scripts/prerequisites static $(TARGET)
	CARGO=$(CARGO) scripts/build-static $(TARGET)

test:
	scripts/prerequisites test
	scripts/check

test-static: static
	scripts/prerequisites test
	scripts/test-static target/static

# MACHINES: arguments, such as '--only timer,xfs' for the long form.
MACHINES ?=

test-machines:
	scripts/prerequisites machines
	$(MAKE) deb
	tests/machines/short-form $(MACHINES)

test-machines-long:
	scripts/prerequisites machines
	$(MAKE) deb static
	tests/machines/long-form $(MACHINES)

torture:
	scripts/prerequisites test
	scripts/torture

demo:
	scripts/prerequisites demo
	$(CARGO) build --release --locked
	scripts/demo target/release

bench:
	scripts/prerequisites bench
	$(CARGO) build --release --locked
	benches/compare --bin target/release --dir $(BENCH_DIR) $(BENCH)
	benches/heal --bin target/release --dir $(BENCH_DIR) $(HEAL)

bench-growth:
	scripts/prerequisites bench
	$(CARGO) build --release --locked
	benches/growth --bin target/release --dir $(BENCH_DIR) $(BENCH)

package-files: all man
	scripts/prerequisites sources
	mkdir -p target/packages
	scripts/crate-licences >target/packages/crates
	gzip -9nf target/packages/crates

# The profile strips the programs; both tools take them as they are.
deb: package-files
	scripts/prerequisites deb
	for variant in client server; do \
	    $(DATED) $(CARGO) deb --locked --no-build --no-strip --variant $$variant --deb-revision $(REVISION) \
	        --output target/packages/ || exit 1; \
	done

rpm: package-files
	scripts/prerequisites rpm
	for variant in client server; do \
	    $(DATED) $(CARGO) generate-rpm --variant $$variant --set-metadata 'release = "$(REVISION)"' \
	        --auto-req builtin --output target/packages/ || exit 1; \
	done

test-packages:
	scripts/prerequisites packages
	scripts/test-packages

dist:
	scripts/prerequisites sources
	$(DATED) scripts/dist target/packages

man:
	$(CARGO) run --quiet --locked --example documents -- target/man target/completions

install: all man
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)/etc/systemimager \
	    $(DESTDIR)/etc/systemimager/hooks.d/pre-update.d $(DESTDIR)/etc/systemimager/hooks.d/post-update.d \
	    $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
	    $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	install -m 0755 target/release/si_updateclient target/release/si_tardiff $(DESTDIR)$(PREFIX)/sbin
	install -m 0644 target/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 0644 target/completions/bash/* $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	install -m 0644 target/completions/zsh/* $(DESTDIR)$(PREFIX)/share/zsh/site-functions
	install -m 0644 target/completions/fish/* $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	for phase in pre post; do \
	    install -m 0644 packaging/hooks.d/README $(DESTDIR)/etc/systemimager/hooks.d/$$phase-update.d; \
	done
	for file in tardiff.toml updateclient.toml updateclient.local.exclude; do \
	    test -e $(DESTDIR)/etc/systemimager/$$file || install -m 0644 etc/$$file $(DESTDIR)/etc/systemimager/; \
	done

# KEY=FILE SERVER=HOST IMAGE=NAME and others: see scripts/rescue.
RESCUE = $(foreach name,KEY SERVER IMAGE REPO ARGUMENTS SYSTEM KERNEL AGENT GENERATOR,$(if \
    $($(name)),$(name)='$($(name))'))

rescue: static
	scripts/prerequisites rescue
	scripts/rescue target/rescue $(RESCUE)

# systemd, dracut and initramfs-tools read these directories, regardless of PREFIX.
UNITS         ?= /usr/lib/systemd/system
SYSUSERS      ?= /usr/lib/sysusers.d
TMPFILES      ?= /usr/lib/tmpfiles.d
DRACUT        ?= /usr/lib/dracut/modules.d
INITRAMFSTOOLS ?= /usr/share/initramfs-tools

# The agent and the initramfs script are installed below PREFIX.
AT_PREFIX = sed -e 's|/usr/sbin/si_updateclient --|$(PREFIX)/sbin/si_updateclient --|' \
    -e 's|/usr/sbin/si_tardiff serve|$(PREFIX)/sbin/si_tardiff serve|' \
    -e 's|^agent=.*|agent=$(PREFIX)/sbin/si_updateclient|' \
    -e 's|^helper=.*|helper=$(PREFIX)/share/systemimager-diff/si-recover-root|'

install-recovery:
	install -d $(DESTDIR)$(TMPFILES)
	install -m 0644 packaging/tmpfiles.d/systemimager-diff-client.conf $(DESTDIR)$(TMPFILES)
	install -d $(DESTDIR)$(UNITS) $(DESTDIR)$(DRACUT)/90si-recover $(DESTDIR)$(PREFIX)/share/systemimager-diff \
	    $(DESTDIR)$(INITRAMFSTOOLS)/hooks $(DESTDIR)$(INITRAMFSTOOLS)/scripts/local-bottom
	$(AT_PREFIX) packaging/systemd/si-recover.service >$(DESTDIR)$(UNITS)/si-recover.service
	$(AT_PREFIX) packaging/systemd/si-boot-loader-due.service >$(DESTDIR)$(UNITS)/si-boot-loader-due.service
	chmod 0644 $(DESTDIR)$(UNITS)/si-recover.service $(DESTDIR)$(UNITS)/si-boot-loader-due.service
	install -m 0755 packaging/initramfs/si-recover-root $(DESTDIR)$(PREFIX)/share/systemimager-diff
	install -m 0644 packaging/initramfs/si-filesystems $(DESTDIR)$(PREFIX)/share/systemimager-diff
	install -m 0755 packaging/initramfs/si-recover-root packaging/dracut/90si-recover/si-recover-hook.sh \
	    $(DESTDIR)$(DRACUT)/90si-recover
	install -m 0644 packaging/initramfs/si-filesystems $(DESTDIR)$(DRACUT)/90si-recover
	$(AT_PREFIX) packaging/dracut/90si-recover/module-setup.sh >$(DESTDIR)$(DRACUT)/90si-recover/module-setup.sh
	$(AT_PREFIX) packaging/initramfs-tools/hooks/si-recover >$(DESTDIR)$(INITRAMFSTOOLS)/hooks/si-recover
	install -m 0755 packaging/initramfs-tools/scripts/local-bottom/si-recover \
	    $(DESTDIR)$(INITRAMFSTOOLS)/scripts/local-bottom
	chmod 0755 $(DESTDIR)$(DRACUT)/90si-recover/module-setup.sh $(DESTDIR)$(INITRAMFSTOOLS)/hooks/si-recover

RESCUE_FILES = $(DESTDIR)$(PREFIX)/share/systemimager-diff/rescue

install-rescue:
	install -d $(RESCUE_FILES)/initramfs-tools/hooks $(RESCUE_FILES)/90si-rescue \
	    $(RESCUE_FILES)/initramfs-tools/scripts/init-premount
	install -m 0755 scripts/rescue $(RESCUE_FILES)/make-rescue
	install -m 0755 packaging/rescue/si-rescue $(RESCUE_FILES)
	install -m 0644 packaging/initramfs/si-filesystems $(RESCUE_FILES)
	install -m 0644 packaging/rescue/initramfs-tools/initramfs.conf $(RESCUE_FILES)/initramfs-tools
	install -m 0755 packaging/rescue/initramfs-tools/hooks/si-rescue $(RESCUE_FILES)/initramfs-tools/hooks
	install -m 0755 packaging/rescue/initramfs-tools/scripts/init-premount/si-rescue \
	    $(RESCUE_FILES)/initramfs-tools/scripts/init-premount
	install -m 0755 packaging/dracut/90si-rescue/*.sh $(RESCUE_FILES)/90si-rescue

install-timer:
	install -d $(DESTDIR)$(UNITS) $(DESTDIR)/etc/cron.d
	$(AT_PREFIX) packaging/systemd/si-update.service >$(DESTDIR)$(UNITS)/si-update.service
	$(AT_PREFIX) packaging/systemd/si-download.service >$(DESTDIR)$(UNITS)/si-download.service
	$(AT_PREFIX) packaging/systemd/si-switch.service >$(DESTDIR)$(UNITS)/si-switch.service
	install -m 0644 packaging/systemd/si-update.timer packaging/systemd/si-download.timer \
	    packaging/systemd/si-switch.timer $(DESTDIR)$(UNITS)
	$(AT_PREFIX) packaging/cron/si-update >$(DESTDIR)/etc/cron.d/si-update
	chmod 0644 $(DESTDIR)$(UNITS)/si-update.service $(DESTDIR)$(UNITS)/si-download.service \
	    $(DESTDIR)$(UNITS)/si-switch.service $(DESTDIR)/etc/cron.d/si-update

install-server:
	install -d $(DESTDIR)$(UNITS) $(DESTDIR)$(SYSUSERS) $(DESTDIR)$(TMPFILES) \
	    $(DESTDIR)$(PREFIX)/share/systemimager-diff
	$(AT_PREFIX) packaging/systemd/si-tardiff.service >$(DESTDIR)$(UNITS)/si-tardiff.service
	$(AT_PREFIX) packaging/systemd/si-refresh.service >$(DESTDIR)$(UNITS)/si-refresh.service
	chmod 0644 $(DESTDIR)$(UNITS)/si-tardiff.service $(DESTDIR)$(UNITS)/si-refresh.service
	install -m 0644 packaging/systemd/si-refresh.timer $(DESTDIR)$(UNITS)
	install -m 0644 packaging/sysusers.d/si-tardiff.conf $(DESTDIR)$(SYSUSERS)
	install -m 0644 packaging/tmpfiles.d/systemimager-diff-server.conf $(DESTDIR)$(TMPFILES)
	install -m 0644 packaging/web/*.conf $(DESTDIR)$(PREFIX)/share/systemimager-diff

clean:
	$(CARGO) clean
