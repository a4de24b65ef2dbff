//! Three sides: the live tree, its record, and the published generations.

use super::*;
use crate::common::golden::{self, Masks};

/// A node at the first of two generations.
fn behind() -> (Site, Tree) {
    let first = with_file(&trees::with_parents(trees::system()), "usr/lib/app/old.py", "old");
    let site = Site::at(&first);
    let mut second = with_file(&first, "etc/hostname", "silver\n");
    second = with_file(&second, "usr/bin/tool", "a better tool");
    second = with_file(&second, "usr/lib/app/three.py", "3");
    second.remove(&b"usr/lib/app/old.py"[..]);
    site.publish(&second);
    (site, second)
}

#[test]
fn newer_generation_is_no_deviation() {
    require!(ROOT_AND_RSYNC);

    let (site, _) = behind();

    verify(&site, &[]).ended(
        0,
        &["equal to node serial 1", "4 paths have another version in the published head, serial 2"],
    );
}

#[test]
fn json_events_say_which_sides_differ() {
    require!(ROOT_AND_RSYNC);

    let (site, _) = behind();
    let node = site.node();
    // Edited here; edited here and elsewhere; edited to the published content.
    for (path, text) in
        [("etc/passwd", "edited\n"), ("usr/bin/tool", "my tool"), ("etc/hostname", "silver\n")]
    {
        rewrite(&node.join(path), text);
    }

    let run = verify(&site, &["--json"]);

    let mut masks = Masks::default().literal(site.dir.path().display().to_string(), "SITE");
    let events: String = run
        .out
        .split_inclusive('\n')
        .filter(|line| !line.contains("\"event\":\"progress\""))
        .filter(|line| !line.contains("public key"))
        .collect();
    golden::check("json/verify", &masks.apply(&format!("exit code: {}\n{events}", run.code)));
}

#[test]
fn text_names_deviations_that_are_published_otherwise() {
    require!(ROOT_AND_RSYNC);

    let (site, _) = behind();
    rewrite(&site.node().join("usr/bin/tool"), "my tool");
    rewrite(&site.node().join("etc/hostname"), "silver\n");

    verify(&site, &[]).ended(
        10,
        &[
            ">fcs....... /etc/hostname  (content; it is as published)",
            ">fcs....... /usr/bin/tool  (content; the published version is another one)",
        ],
    );
}

#[test]
fn tree_is_compared_with_older_and_newer_generations() {
    require!(ROOT_AND_RSYNC);

    let (site, _) = behind();
    let ids: Vec<String> =
        site.catalog().publishes.iter().map(|publish| publish.generation.to_string()).collect();

    let against = |word: &str| verify(&site, &["--against", word]);
    let words =
        ["/etc/hostname", "/usr/bin/tool", ">f+++++++++ /usr/lib/app/three.py", "4 deviations"];
    for newer in ["head", "2", &ids[1], &ids[1][..8]] {
        against(newer).ended(10, &words).ended(10, &["*deleting   /usr/lib/app/old.py"]);
    }
    for older in ["1", &ids[0]] {
        let run = against(older);
        run.ended(0, &["equal to node serial 1"]);
        assert_eq!(proof(&run.out), ids[0]);
    }
    site.updated(&[]);

    let run = against("head");
    run.ended(0, &["equal to node serial 2"]);
    assert_eq!(proof(&run.out), ids[1]);
    against("1").ended(10, &["*deleting   /usr/lib/app/three.py"]);
}
