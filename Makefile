# make            the two programs, in target/release
# make test       everything that CI checks; installs what is missing
# make demo       two generations made of this machine's files, an update, a fallback, judged by rsync
# make bench      compared with rsync: make bench OLD=dir NEW=dir
# make man        manual pages, in target/man
# make install    PREFIX=/usr DESTDIR=

PREFIX  ?= /usr
DESTDIR ?=
CARGO   ?= cargo
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: all test demo bench man install clean

all:
	$(CARGO) build --release --locked

test:
	scripts/prerequisites test
	scripts/check

demo:
	scripts/prerequisites demo
	$(CARGO) build --release --locked
	scripts/demo target/release

bench:
	scripts/prerequisites bench
	$(CARGO) build --release --locked
	benches/compare-rsync --programs target/release $(OLD) $(NEW)

man:
	$(CARGO) run --quiet --locked --example man -- target/man

install: all man
	install -d $(DESTDIR)$(PREFIX)/sbin $(DESTDIR)$(PREFIX)/share/man/man8 $(DESTDIR)/etc/systemimager
	install -m 0755 target/release/si_updateclient target/release/si_tardiff $(DESTDIR)$(PREFIX)/sbin
	install -m 0644 target/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8
	for file in updateclient.toml updateclient.local.exclude; do \
	    test -e $(DESTDIR)/etc/systemimager/$$file || install -m 0644 etc/$$file $(DESTDIR)/etc/systemimager/; \
	done

clean:
	$(CARGO) clean
