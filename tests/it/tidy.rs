//! The house stays tidy: every rule of `xorfs_tests::tidy` over the whole workspace.

use std::io::Write;

use xorfs_tests::tidy;

fn expect_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

fn sources() -> Vec<tidy::Source> {
    let sources = tidy::sources(&tidy::workspace()).expect("the sources can be read");
    assert!(!sources.is_empty(), "no source was found below {}", tidy::workspace().display());
    sources
}

#[test]
fn tidy_files_are_short() {
    let (complaints, median, p90) = tidy::sizes(&sources());
    // Past the capture of test output: the figures are meant to be seen.
    let _ = writeln!(
        std::io::stderr(),
        "tidy: lines a file, tests aside: median {median} (aim 200), 90th percentile {p90} (aim 500)"
    );
    expect_none(&complaints);
}

#[test]
fn tidy_functions_are_short() {
    expect_none(&tidy::function_lengths(&sources()));
}

#[test]
fn tidy_modules_have_headers_and_names() {
    expect_none(&tidy::headers(&sources()));
    expect_none(&tidy::module_files(&sources()));
}

#[test]
fn tidy_crates_depend_one_way() {
    expect_none(&tidy::crate_edges(&tidy::workspace()).expect("the manifests can be read"));
}

#[test]
fn tidy_crash_points_are_for_tests() {
    let complaints = tidy::crash_points(&tidy::workspace(), &sources());
    expect_none(&complaints.expect("the manifests can be read"));
}

#[test]
fn tidy_libraries_stay_behind_their_doors() {
    expect_none(&tidy::library_edges(&sources()));
}

#[test]
fn tidy_words_say_something() {
    expect_none(&tidy::banned_words(&sources()));
}

#[test]
fn tidy_links_lead_somewhere() {
    let documents = tidy::documents(&tidy::workspace()).expect("the documents can be read");
    expect_none(&tidy::dead_links(&documents).expect("the documents can be read"));
}
