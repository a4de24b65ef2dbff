//! Choice between patches and whole contents, kinds of patches, and their size.

use super::*;
use crate::delta::Kind;
use crate::delta::gzip::tests::gzip_best;
use crate::delta::tests::cpio_member;
use crate::replay::file::tests::{boot_image, changed, cpio_entry, text, xz, zstd};

#[test]
fn every_kind_of_patch_round_trips() {
    let (base, target) = pair_of_every_kind();
    check_pair_in(&base, &target, &[FrameCompression::Zstd]);
    let listing = |effort| {
        let (bytes, _) = build_with(&base, &target, Some(effort), FrameCompression::Zstd);
        listing_of(&bytes, FrameCompression::Zstd).expect("reads")
    };
    let kinds = |effort| {
        let kinds = listing(effort)
            .groups()
            .iter()
            .map(|g| (g.kind, g.targets.iter().any(|t| t.rebuilt.is_some())))
            .collect();
        let kinds: Vec<(Kind, bool)> = kinds;
        kinds
    };

    // The initrds begin alike, so the fast effort tries segments.
    assert_eq!(
        kinds(Effort::Fast),
        [
            (Kind::Prefix, false),
            (Kind::Prefix, false),
            (Kind::Segments, false),
            (Kind::Segments, false)
        ]
    );
    assert_eq!(
        kinds(Effort::Normal),
        [
            (Kind::Prefix, false),
            (Kind::Prefix, true),
            (Kind::Segments, false),
            (Kind::Copies, true)
        ]
    );
    assert_eq!(
        kinds(Effort::Best),
        [
            (Kind::Operations, false),
            (Kind::Operations, false),
            (Kind::Prefix, true),
            (Kind::Copies, true)
        ]
    );

    let header = listing(Effort::Best).header().clone();
    assert_eq!(header.rebuilt, 2);
    assert!(header.rebuilt_bytes > 1_000_000 && header.patch_bytes < 1_000_000, "{header:?}");
}

#[test]
fn moved_edited_file_is_patched_except_fast() {
    let content = noise(21, 300_000);
    let edited = [&content[..100_000], b"other words", &content[100_500..]].concat();
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    old.file(b"usr/bin/tool", meta(0o755, 3, 0), &content).file(
        b"usr/bin/other",
        meta(0o755, 3, 0),
        &noise(22, 9_000),
    );
    new.file(b"opt/suite/runner", meta(0o755, 5, 0), &edited);
    let (base, target) = (old.tree(), new.tree());

    check_pair_in(&base, &target, &[FrameCompression::Zstd]);
    let length = |effort| build_with(&base, &target, Some(effort), FrameCompression::Zstd).0.len();
    assert!(length(Effort::Fast) > 300_000);
    for effort in [Effort::Normal, Effort::Best] {
        assert!(length(effort) < 5_000, "{effort}: {}", length(effort));
    }

    let unread = MemoryTree { contents: HashMap::new(), ..base.clone() };
    let (bytes, _) = build_with(&unread, &target, Some(Effort::Normal), FrameCompression::Zstd);
    assert!(bytes.len() > 300_000, "an unreadable file is no source");
    assert_eq!(receive(&bytes, FrameCompression::Zstd, &base).len(), 1);
}

/// The file is too large for a group, and no archive of the tree's files.
#[test]
fn large_gzip_file_is_built_from_old_plain_form() {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    let text: String =
        (0..400_000u32).map(|n| format!("{:08x}\n", n.wrapping_mul(2_654_435_761))).collect();
    let changed = text.replacen("00000000\n", "one line and another\n", 1);
    for (builder, text) in [(&mut old, text), (&mut new, changed)] {
        builder.file(b"var/data.gz", meta(0o644, 5, 0), &gzip_best(text.as_bytes()));
    }
    let (base, target) = (old.tree(), new.tree());
    let file = target.manifest.entries().iter().find_map(Entry::file).expect("the file");

    assert!(file.0 > 1 << 20, "{} bytes are decomposed in a group", file.0);

    let (bytes, _) = build_with(&base, &target, Some(Effort::Best), FrameCompression::Zstd);

    assert!(bytes.len() < 50_000, "{} bytes", bytes.len());
    assert_eq!(
        receive(&bytes, FrameCompression::Zstd, &base).get(&file.1).map(Vec::len),
        Some(file.0 as usize)
    );
}

/// An initrd with unchanged microcode at its beginning, and modules that have all changed.
fn initrds() -> (MemoryTree, MemoryTree) {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    let early = [
        cpio_member("microcode.bin", &noise(31, 2_000_000)),
        cpio_member("TRAILER!!!", &[]),
        vec![0; 512],
    ]
    .concat();
    for (builder, n) in [(&mut old, 3u32), (&mut new, 5)] {
        let modules =
            (0..4).map(|module| [&noise(40 + module, 300_000)[..], &n.to_le_bytes()].concat());
        let modules: Vec<Vec<u8>> = modules.collect();
        let names = |module: usize| format!("modules/{n}.1/{module}.ko");
        let inside: Vec<Vec<u8>> =
            (0..).zip(&modules).map(|(at, module)| cpio_member(&names(at), module)).collect();
        let inside = [inside.concat(), cpio_member("TRAILER!!!", &[])].concat();
        let time = meta(0o644, n.into(), 0);
        builder.file(
            b"boot/initrd.img",
            time.clone(),
            &[early.clone(), gzip_best(&inside)].concat(),
        );
        for (at, module) in (0..).zip(&modules) {
            builder.file(names(at).as_bytes(), time.clone(), module);
        }
    }
    (old.tree(), new.tree())
}

#[test]
fn microcode_before_initrd_is_not_sent() {
    let (base, target) = initrds();
    let length = |effort| build_with(&base, &target, Some(effort), FrameCompression::Zstd).0.len();
    let (fast, normal, best) = (length(Effort::Fast), length(Effort::Normal), length(Effort::Best));

    assert!(
        fast < 1_300_000 && normal < 1_300_000,
        "its compressed part has 1.2 MB: {fast}, {normal}"
    );
    assert!(best < 30_000, "{best}");

    check_pair_in(&base, &target, &[FrameCompression::Zstd]);
}

#[test]
fn large_compressed_file_is_tried_if_it_begins_alike() {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    let members = noise(51, 1_500_000);
    for (builder, n) in [(&mut old, 3u32), (&mut new, 5)] {
        let jar = [&members[..], &noise(60 + n, 100_000)].concat();
        builder.file(b"lib/suite.jar", meta(0o644, n.into(), 0), &jar);
        builder.file(
            b"lib/other.jar",
            meta(0o644, n.into(), 0),
            &[&noise(70 + n, 100)[..], &members].concat(),
        );
    }
    let (base, target) = (old.tree(), new.tree());
    let (bytes, _) = build_with(&base, &target, Some(Effort::Normal), FrameCompression::Zstd);

    assert!(
        (1_600_000..1_620_000).contains(&bytes.len()),
        "the other one is sent whole: {}",
        bytes.len()
    );
    assert_eq!(receive(&bytes, FrameCompression::Zstd, &base).len(), 2);
}

/// The estimate from the compressed size is wrong for files that compress a hundredfold.
#[test]
fn rebuild_limit_is_not_exceeded() {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    for (builder, n) in [(&mut old, 3u8), (&mut new, 5)] {
        for name in ["a", "b", "c", "d"] {
            let plain = [&vec![b'x'; 8_000_000][..], name.as_bytes(), &[n]].concat();
            builder.file(
                format!("{name}.gz").as_bytes(),
                meta(0o644, n.into(), 0),
                &gzip_best(&plain),
            );
        }
    }
    let (base, target) = (old.tree(), new.tree());
    let (bytes, _) = build_with(&base, &target, Some(Effort::Normal), FrameCompression::Zstd);
    let listing = listing_of(&bytes, FrameCompression::Zstd).expect("reads");
    let (limit, cost) =
        (1000 * Effort::Normal.rebuild_limit().seconds, listing.header().rebuild_ms);

    assert!(cost <= limit, "{cost} of {limit}");
    assert_eq!(receive(&bytes, FrameCompression::Zstd, &base).len(), 4);
}

#[test]
fn small_change_of_renamed_file_is_a_patch() {
    let (base, target) = rich_pair();
    let (bytes, written) = build(&base, &target, DeltaMode::WithDeltas, FrameCompression::Zstd);

    assert!(written.index.iter().any(|record| record.place.group.is_some()));

    let file = framed(&bytes, FrameCompression::Zstd);
    let listing = verify_diff(file, &ArchiveLimits::default(), None, &Silent).expect("verifies");

    assert_eq!(listing.groups()[0].sources[0].path.to_string(), "/usr/lib/libx.so.1.2.3");
    assert!(listing.header().patch_bytes < 1000, "{}", listing.header().patch_bytes);
    assert!(
        listing.known().iter().any(|known| known.path.to_string() == "/same/file"),
        "a copy is known"
    );
}

/// Trees with modules in xz and zstd, a kernel, and an initrd whose tail is zstd.
fn trees_of_kernel() -> (MemoryTree, MemoryTree) {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    let module = ["--check=crc32", "--lzma2=dict=1MiB"];
    for (builder, version) in [(&mut old, "1"), (&mut new, "2")] {
        let plain = |length, seed| {
            let plain = text(length, seed);
            if version == "1" { plain } else { changed(&plain) }
        };
        let directory = format!("usr/lib/modules/6.{version}/");
        let mut add = |name: &str, content: &[u8]| {
            builder.file(name.as_bytes(), meta(0o644, 5, 0), content);
        };
        let modules: Vec<Vec<u8>> = (0..5).map(|n| xz(&plain(200_000, 30 + n), &module)).collect();
        for (n, module) in modules.iter().enumerate() {
            add(&format!("{directory}m{n}.ko.xz"), module);
        }
        add(&format!("{directory}z.ko.zst"), &zstd(&plain(100_000, 40), 19));
        add(&format!("boot/vmlinuz-6.{version}"), &boot_image(&zstd(&plain(9 << 20, 41), 3)));

        let firmware = noise(44, 1_500_000);
        add("usr/lib/firmware/f.bin", &firmware);
        let tool = plain(300_000, 42);
        add("usr/bin/tool", &tool);
        let mut initrd: Vec<u8> = modules
            .iter()
            .enumerate()
            .flat_map(|(n, module)| cpio_entry(&format!("m{n}.ko.xz"), module))
            .collect();
        initrd.extend(cpio_entry("f.bin", &firmware));
        initrd.extend(cpio_entry("TRAILER!!!", b""));
        let tail = [cpio_entry("bin/tool", &tool), cpio_entry("etc/own", &plain(5000, 43))];
        initrd.extend(zstd(&tail.concat(), 9));
        add(&format!("boot/initrd.img-6.{version}"), &initrd);
    }
    (old.tree(), new.tree())
}

#[test]
fn kernel_with_compressed_modules_is_replayed() {
    let (base, target) = trees_of_kernel();
    let read = |effort| {
        let (bytes, written) = build_with(&base, &target, Some(effort), FrameCompression::Zstd);
        assert_eq!(build_with(&base, &target, Some(effort), FrameCompression::Zstd).0, bytes);
        let received = receive(&bytes, FrameCompression::Zstd, &base);
        let listing = listing_of(&bytes, FrameCompression::Zstd).expect("reads");
        let mut files = target.manifest.entries().iter().filter_map(Entry::file);
        let contents = |digest: &Digest| received.get(digest).or_else(|| base.contents.get(digest));
        assert!(files.all(|(_, digest)| contents(&digest).is_some()), "{effort}");
        (bytes.len(), listing, written)
    };
    let replayed = |listing: &Listing| -> usize {
        let targets = listing.groups().iter().flat_map(|group| &group.targets);
        targets.filter(|t| matches!(t.rebuilt, Some(RebuiltParts::Replayed(_)))).count()
    };

    let (fast, listing, _) = read(Effort::Fast);
    assert!(listing.header().needs.is_empty());
    assert_eq!(replayed(&listing), 0);
    assert!(listing.groups().iter().any(|group| group.kind == Kind::Copies), "initrd is split");

    let (normal, listing, _) = read(Effort::Normal);
    assert_eq!(listing.header().needs, ["xz-replay-1", "zstd-replay-1"]);
    assert_eq!(replayed(&listing), 7, "all but the kernel, which is larger than 8 MiB");
    assert!(normal + 150_000 < fast, "{normal} of {fast}");

    let (best, listing, _) = read(Effort::Best);
    assert_eq!(replayed(&listing), 8);
    assert!(best * 4 < fast, "{best} of {fast}");
    let header = listing.header();
    assert!(header.rebuild_ms > 0 && header.rebuilt == 8, "{header:?}");
}

/// A file whose plain form another program changed since, or that only looks like xz.
#[test]
fn file_that_is_not_what_its_name_says_is_sent_as_it_is() {
    let (mut old, mut new) =
        (TreeBuilder::default(), TreeBuilder { younger: 1, ..TreeBuilder::default() });
    let good = |seed| xz(&text(100_000, seed), &["-6"]);
    let mut damaged = good(50);
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0xff;
    for (builder, edit) in [(&mut old, 0), (&mut new, 1)] {
        builder.file(b"a/good.xz", meta(0o644, 5, 0), &good(51 + edit));
        builder.file(b"a/text.xz", meta(0o644, 5, 0), &text(50_000, 60 + edit));
        damaged[40] = edit as u8;
        builder.file(b"a/damaged.xz", meta(0o644, 5, 0), &damaged);
        builder.file(b"a/empty.zst", meta(0o644, 5, 0), &[edit as u8]);
    }
    let (base, target) = (old.tree(), new.tree());

    check_pair_in(&base, &target, &[FrameCompression::Zstd, FrameCompression::Gzip]);
}
