//! Making a damaged database whole again, at the price of what is damaged and no more.
//!
//! RocksDB keeps keys in table files, large values in blob files, and the list of both in the
//! manifest; it opens none of it where a table or the manifest is damaged, and its own repair
//! forgets the blob files. A rebuild goes like this:
//!
//! 1. The tables, and nothing else, are linked into `probe/` and repaired there. What RocksDB
//!    cannot read of them it sorts out; of the rest it writes a manifest.
//! 2. The blob files are linked into `rescue/`, where RocksDB does not remove them. From now on
//!    the rebuild is taken up again by the next opening, should this one not end.
//! 3. That manifest, with the families that have no table and with all blob files, becomes the
//!    database's. Damaged tables are moved to `damaged/`. No blob is copied.
//! 4. The database is opened and [`mend`] puts back what the lost tables said.
//!
//! So a lost table of `blocks` costs the blocks that lay in it themselves (the small ones); those
//! in blob files are found by the ids that stand beside them. A lost table of `index` costs what
//! was known of blocks, never a block. The log is left to RocksDB.

mod blobs;
mod manifest;
pub(super) mod mend;
mod records;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::slice;

use rocksdb::{DB, Options};

use super::columns::Column;
use crate::block::Block;
use crate::crash;
use crate::id::BlockId;
use blobs::BlobFile;
use manifest::BlobCount;

/// Tables alone, where RocksDB's repair sorts them.
const PROBE: &str = "probe";

/// Blob files, until what the lost tables said is put back.
const RESCUE: &str = "rescue";

/// Tables and manifests that do not read, for whoever wants to look at them.
const DAMAGED: &str = "damaged";

/// In `rescue/`: step 3 was done. Another one would take the tables that a compaction replaced
/// since, and that a crash kept from being removed, for part of the database beside those that
/// replaced them.
const INSTALLED: &str = "installed";

/// Says that the database has to be rebuilt although it opens.
const SUSPECT: &str = "suspect";

/// In that file: blob files are meant.
const SUSPECT_BLOBS: &str = "blobs\n";

/// What a rebuild found lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Loss {
    /// Damaged tables, by the family where they tell it.
    pub(super) tables: Vec<(String, Option<Column>)>,
    /// Whether there may have been tables that nobody knows about any more.
    pub(super) hides: bool,
    /// Whether blocks in blob files have to be read.
    pub(super) reads_blobs: bool,
}

impl Loss {
    /// Whether rows of a family may be lost.
    fn may_lack(&self, column: Column) -> bool {
        let of = |found: &Option<Column>| found.is_none_or(|found| found == column);
        self.hides || self.tables.iter().any(|(_, found)| of(found))
    }

    /// Whether there may be blocks that neither `index` nor `blocks` names any more.
    fn may_hide_blocks(&self) -> bool {
        self.may_lack(Column::Index) && self.may_lack(Column::Blocks)
    }
}

/// Whether a rebuild was begun or asked for.
pub(super) fn is_wanted(dir: &Path) -> bool {
    is_interrupted(dir) || dir.join(SUSPECT).exists() || lacks_current(&dir.join("db"))
}

/// Whether a rebuild was begun and did not end. What it had found lost is not known any more.
pub(super) fn is_interrupted(dir: &Path) -> bool {
    dir.join(RESCUE).exists()
}

/// Whether a rebuild was interrupted when only its last step was left.
pub(super) fn is_installed(dir: &Path) -> bool {
    dir.join(RESCUE).join(INSTALLED).exists()
}

/// Asks the next opening for a rebuild; with `reads_blobs` for one that also compares every
/// block in a blob file with its id, because RocksDB met damage while it copied some.
pub(super) fn suspect(dir: &Path, reads_blobs: bool) -> io::Result<()> {
    let mut file = File::options().create(true).append(true).open(dir.join(SUSPECT))?;
    if reads_blobs {
        file.write_all(SUSPECT_BLOBS.as_bytes())?;
    }
    file.sync_all()?;
    File::open(dir)?.sync_all()
}

/// Whether blocks in blob files have to be read.
pub(super) fn suspects_blobs(dir: &Path) -> bool {
    fs::read_to_string(dir.join(SUSPECT)).is_ok_and(|text| text.contains(SUSPECT_BLOBS))
}

/// Whether the database has files and does not say which. RocksDB would make a new one and
/// remove them.
fn lacks_current(db: &Path) -> bool {
    !db.join("CURRENT").exists()
        && [TABLE, BLOB, LOG].iter().any(|kind| numbers(db, kind).is_ok_and(|n| !n.is_empty()))
}

/// Lets `CURRENT` name the newest manifest, where it names none. Whether it did.
pub(super) fn find_manifest(dir: &Path) -> io::Result<bool> {
    let db = dir.join("db");
    let named = fs::read_to_string(db.join("CURRENT")).unwrap_or_default();
    if !named.trim_end().is_empty() && db.join(named.trim_end()).is_file() {
        return Ok(false);
    }
    let newest = file_names(&db)?
        .into_iter()
        .filter_map(|name| Some((name.strip_prefix("MANIFEST-")?.parse::<u64>().ok()?, name)))
        .max();
    let Some((_, name)) = newest else { return Ok(false) };
    manifest::name_current(&db, &name)?;
    Ok(true)
}

/// Steps 1 to 3.
pub(super) fn rebuild(dir: &Path) -> io::Result<Loss> {
    absent(fs::remove_file(dir.join(RESCUE).join(INSTALLED)))?;
    let db = dir.join("db");
    let (edits, lost) = probe(dir)?;
    let tables = numbers(&db, TABLE)?.len();
    if tables > 1 && lost.len() == tables {
        // More likely a RocksDB that we do not know than damage.
        let text = format!("none of the {tables} tables of the store reads");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    crash::point("rebuild-after-probe");
    let rescue = dir.join(RESCUE);
    fs::create_dir_all(&rescue)?;
    let mut blob_files = Vec::new();
    for number in numbers(&db, BLOB)? {
        let name = file_name(number, BLOB);
        link(&db.join(&name), &rescue.join(&name))?;
        let file = BlobFile::open(&db.join(&name))?;
        let blobs = file.spots()?.len() as u64;
        blob_files.push(BlobCount { number, blobs, bytes: file.record_bytes() });
    }
    File::open(&rescue)?.sync_all()?;
    File::open(dir)?.sync_all()?;
    crash::point("rebuild-after-rescue");

    let known = manifest::families(&manifest::read(&db));
    let next = all_numbers(&db)?.into_iter().max().unwrap_or(0) + 1;
    let mut edits = with_families(edits, &known, &blob_files);
    edits.push(manifest::next_file(next + 1));
    let old = fs::read_to_string(db.join("CURRENT")).unwrap_or_default();
    manifest::install(&db, next, &edits)?;
    crash::point("rebuild-after-manifest");

    let damaged = dir.join(DAMAGED);
    fs::create_dir_all(&damaged)?;
    let mut loss = Loss::default();
    for number in lost {
        let name = file_name(number, TABLE);
        let column = family_of(&db.join(&name));
        fs::rename(db.join(&name), damaged.join(&name))?;
        loss.tables.push((name, column));
    }
    let old = old.trim_end();
    if old.starts_with("MANIFEST-") && db.join(old).is_file() {
        fs::rename(db.join(old), damaged.join(old))?;
    }
    File::create(rescue.join(INSTALLED))?.sync_all()?;
    File::open(&rescue)?.sync_all()?;
    Ok(loss)
}

/// A block in a blob file that RocksDB does not read as a whole: the one that `detail` names, or
/// one whose frame is damaged.
pub(super) fn salvage(dir: &Path, id: &BlockId, detail: &str) -> Option<Block> {
    let db = dir.join("db");
    let named = detail.split_once(".blob").and_then(|(before, _)| {
        before.rsplit(|c: char| !c.is_ascii_digit()).next()?.parse::<u64>().ok()
    });
    let candidates = match named {
        Some(number) => vec![number],
        None if detail.starts_with("Corruption") => numbers(&db, BLOB).ok()?,
        None => return None,
    };
    candidates.into_iter().find_map(|number| {
        let file = BlobFile::open(&db.join(file_name(number, BLOB))).ok()?;
        if named.is_none() && file.is_framed().ok()? {
            return None;
        }
        let spots = file.spots().ok()?;
        let mut right = spots.iter().filter(|spot| spot.id == *id);
        right.find_map(|spot| file.block(spot).ok().flatten())
    })
}

/// The end of a rebuild, once everything that it put back is on the disk. What says that one was
/// begun goes at once, so that a crash leaves a rebuild that is whole or one that has ended.
pub(super) fn finish(dir: &Path) -> io::Result<()> {
    absent(fs::remove_file(dir.join(SUSPECT)))?;
    absent(fs::rename(dir.join(RESCUE), dir.join(PROBE).join(RESCUE)))?;
    File::open(dir)?.sync_all()?;
    crash::point("rebuild-before-cleaning");
    drop_probe(dir)
}

/// Removes what a rebuild that has ended may have left.
pub(super) fn drop_probe(dir: &Path) -> io::Result<()> {
    absent(fs::remove_dir_all(dir.join(PROBE)))
}

/// What is not there need not go.
fn absent(gone: io::Result<()>) -> io::Result<()> {
    gone.or_else(|error| match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    })
}

/// The tables alone, repaired: the edits that name those that read, and the numbers of the rest.
fn probe(dir: &Path) -> io::Result<(Vec<Vec<u8>>, Vec<u64>)> {
    let (db, probe) = (dir.join("db"), dir.join(PROBE));
    drop_probe(dir)?;
    fs::create_dir(&probe)?;
    let tables = numbers(&db, TABLE)?;
    for number in &tables {
        let name = file_name(*number, TABLE);
        link(&db.join(&name), &probe.join(&name))?;
    }
    if tables.is_empty() {
        // There is nothing to repair, and the probe is a new, empty database.
        let mut options = Options::default();
        options.create_if_missing(true);
        drop(DB::open(&options, &probe).map_err(io::Error::other)?);
    } else {
        DB::repair(&Options::default(), &probe).map_err(io::Error::other)?;
    }
    let lost = match probe.join("lost") {
        lost if lost.exists() => numbers(&lost, TABLE)?,
        _ => Vec::new(),
    };
    Ok((manifest::read(&probe), lost))
}

/// Adds the families that have no table, and the blob files before the tables that name them.
fn with_families(
    edits: Vec<Vec<u8>>,
    known: &BTreeMap<&'static str, u32>,
    blob_files: &[BlobCount],
) -> Vec<Vec<u8>> {
    let mut present = manifest::families(&edits);
    let mut all = Vec::with_capacity(edits.len() + Column::ALL.len());
    let mut edits = edits.into_iter();
    // The first edit is of the database as a whole.
    all.extend(edits.next());
    for (place, column) in (1..).zip(Column::ALL) {
        // Families are numbered as they are made, which is in this order.
        let number = known.get(column.name()).copied().unwrap_or(place);
        if !present.contains_key(column.name()) && present.values().all(|taken| *taken != number) {
            present.insert(column.name(), number);
            all.push(manifest::add_family(column, number));
        }
    }
    all.extend(edits);
    let adds_blocks =
        |edit: &Vec<u8>| manifest::families(slice::from_ref(edit)).contains_key("blocks");
    if let Some(at) = all.iter().position(adds_blocks) {
        all.insert(at + 1, manifest::add_blob_files(present["blocks"], blob_files));
    }
    all
}

const TABLE: &str = "sst";
const BLOB: &str = "blob";
const LOG: &str = "log";

fn file_name(number: u64, kind: &str) -> String {
    format!("{number:06}.{kind}")
}

fn file_names(db: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    let entries = match fs::read_dir(db) {
        Ok(entries) => entries,
        // A store that is about to be made.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
        Err(error) => return Err(error),
    };
    for entry in entries {
        names.extend(entry?.file_name().into_string());
    }
    Ok(names)
}

/// Numbers of the files of a kind, in order.
fn numbers(db: &Path, kind: &str) -> io::Result<Vec<u64>> {
    let names = file_names(db)?;
    let number = |name: &String| name.strip_suffix(kind)?.strip_suffix('.')?.parse().ok();
    let mut numbers: Vec<u64> = names.iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(numbers)
}

/// Numbers of the files of every kind.
fn all_numbers(db: &Path) -> io::Result<Vec<u64>> {
    let number = |name: &String| {
        let name = name.trim_start_matches(|c: char| !c.is_ascii_digit());
        name.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    };
    // The old logs of RocksDB itself are named by a time.
    let names = file_names(db)?.into_iter().filter(|name| !name.starts_with("LOG"));
    Ok(names.filter_map(|name| number(&name)).collect())
}

/// The family that a damaged table says it belongs to.
fn family_of(table: &Path) -> Option<Column> {
    const PROPERTY: &[u8] = b"rocksdb.column.family.name";
    let bytes = fs::read(table).ok()?;
    let at = bytes.windows(PROPERTY.len()).rposition(|window| window == PROPERTY)?;
    let value = &bytes[at + PROPERTY.len()..];
    Column::ALL.into_iter().find(|column| value.starts_with(column.name().as_bytes()))
}

/// A second name for a file, or a copy where the disk has no second names.
fn link(from: &Path, to: &PathBuf) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(_) => fs::copy(from, to).map(drop),
    }
}
