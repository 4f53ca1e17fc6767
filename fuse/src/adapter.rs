//! The kernel's requests, answered by the [`View`].
//!
//! One short method per operation: it turns the request's types into the filesystem's, runs the
//! request where `workers` says, and replies. Only this module and `session` name `fuser`.
//!
//! Invariants: every request is answered exactly once, a panicking one with EIO. What is
//! answered on an event-loop thread without asking `workers` touches memory only. Each name that
//! is handed to the kernel counts as one lookup of its inode in the view, until the kernel
//! forgets it.
//!
//! Deliberately absent: permission checks (`default_permissions` has the kernel do them), locks
//! (the kernel's own are enough for one machine), kernel write-back caching (it assumes that
//! nobody else changes a file), `access`, `bmap` and `poll`, for which the kernel's fallbacks
//! are right.

mod answer;
mod convert;
mod core;
mod listing;
mod opened;
mod workers;

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle as KernelHandle, Filesystem, FopenFlags,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};
use xorfs_store::Plaintext;

use crate::adapter::answer::{GENERATION, LIFETIME, Question};
use crate::adapter::core::Core;
pub(crate) use crate::adapter::opened::Opened;
use crate::adapter::workers::{Workers, guarded};
use crate::{FileHandle, Kind, Owner, SetAttr, View, XattrMode};

/// Largest write that the kernel sends at once, and with it the largest read. The kernel's own
/// limit (`fs.fuse.max_pages_limit`, 256 pages) is the same; each event-loop thread touches this
/// much memory.
const REQUEST_BYTES_MAX: u32 = 1 << 20;

/// Read-ahead and direct I/O requests under way at once. The kernel's default of 12 leaves a
/// network with a round trip of 50 ms idle most of the time.
const BACKGROUND_MAX: u16 = 64;

/// What the kernel may do with an open file: keep the pages it has, since whatever changes a file
/// other than through this mount is announced (see `session`), and close it without asking,
/// since every write has reached the view before it was answered.
const OPEN_REPLY: FopenFlags = FopenFlags::FOPEN_KEEP_CACHE.union(FopenFlags::FOPEN_NOFLUSH);

/// Unit in which `statfs` counts.
const STATFS_UNIT_BYTES: u32 = 4096;

/// Answers the kernel. Made by `session`.
pub(crate) struct Adapter {
    core: Arc<Core>,
    workers: Workers,
}

impl Adapter {
    pub(crate) fn new(view: Arc<View>, opened: Arc<Opened>, event_threads: usize) -> Self {
        Self { core: Arc::new(Core { view, opened }), workers: Workers::new(event_threads) }
    }

    /// Runs a request that may wait for a disk or a network.
    fn run(&self, operation: &'static str, job: impl FnOnce(&Core) + Send + 'static) {
        let core = Arc::clone(&self.core);
        self.workers.run(operation, move || job(&core));
    }

    /// Runs a request that is answered from memory.
    fn at_once(&self, operation: &'static str, job: impl FnOnce(&Core)) {
        guarded(operation, || job(&self.core));
    }
}

fn owner(request: &Request) -> Owner {
    Owner { uid: request.uid(), gid: request.gid() }
}

fn owned(name: &OsStr) -> Vec<u8> {
    name.as_bytes().to_vec()
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let wanted = [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_ATOMIC_O_TRUNC,
            InitFlags::FUSE_AUTO_INVAL_DATA,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP,
        ];
        for capability in wanted {
            if let Err(missing) = config.add_capabilities(capability) {
                tracing::debug!(?missing, "this kernel lacks a capability; going on without");
            }
        }
        // Both answer with what they would have accepted, which then stands: an older kernel
        // with smaller limits works, slower.
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (asked, name) = (Question::new("lookup", parent), owned(name));
        self.run(asked.operation, move |core| {
            asked.entry(reply, core.view.lookup(asked.ino, &name));
        });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, count: u64) {
        self.at_once("forget", |core| core.view.forget(convert::inode(ino), count));
    }

    fn getattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: Option<KernelHandle>,
        reply: ReplyAttr,
    ) {
        let asked = Question::new("getattr", ino);
        self.at_once(asked.operation, |core| asked.attributes(reply, core.view.stat(asked.ino)));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _handle: Option<KernelHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (asked, owner) = (Question::new("setattr", ino), owner(request));
        let now = SystemTime::now();
        let change = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(|time| convert::timestamp_or(time, now)),
            mtime: mtime.map(|time| convert::timestamp_or(time, now)),
        };
        self.run(asked.operation, move |core| {
            asked.attributes(reply, core.set_attr(asked.ino, &change, owner));
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let asked = Question::new("readlink", ino);
        self.run(asked.operation, move |core| {
            asked.bytes(reply, core.view.read_link(asked.ino));
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        device: u32,
        reply: ReplyEntry,
    ) {
        let (asked, name, owner) = (Question::new("mknod", parent), owned(name), owner(request));
        let Some(kind) = convert::kind_of_mode(mode, device) else {
            return reply.error(Errno::EINVAL);
        };
        self.run(asked.operation, move |core| {
            asked.entry(reply, core.view.make_node(asked.ino, &name, kind, mode & 0o7777, owner));
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (asked, name, owner) = (Question::new("mkdir", parent), owned(name), owner(request));
        self.run(asked.operation, move |core| {
            let made = core.view.make_node(asked.ino, &name, Kind::Directory, mode & 0o7777, owner);
            asked.entry(reply, made);
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asked, name) = (Question::new("unlink", parent), owned(name));
        self.run(asked.operation, move |core| {
            asked.empty(reply, core.view.unlink(asked.ino, &name));
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asked, name) = (Question::new("rmdir", parent), owned(name));
        self.run(asked.operation, move |core| {
            asked.empty(reply, core.view.rmdir(asked.ino, &name));
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (asked, name, owner) = (Question::new("symlink", parent), owned(name), owner(request));
        let target = owned(target.as_os_str());
        self.run(asked.operation, move |core| {
            asked.entry(reply, core.view.make_symlink(asked.ino, &name, &target, owner));
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (asked, name) = (Question::new("rename", parent), owned(name));
        let (to, to_name) = (convert::inode(new_parent), owned(new_name));
        let Some(mode) = convert::rename_mode(flags) else {
            return reply.error(Errno::EINVAL);
        };
        self.run(asked.operation, move |core| {
            asked.empty(reply, core.view.rename(asked.ino, &name, to, &to_name, mode));
        });
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        new_parent: INodeNo,
        new_name: &OsStr,
        reply: ReplyEntry,
    ) {
        let asked = Question::new("link", ino);
        let (to, to_name) = (convert::inode(new_parent), owned(new_name));
        self.run(asked.operation, move |core| {
            asked.entry(reply, core.view.link(asked.ino, to, &to_name));
        });
    }

    fn open(&self, request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let (asked, owner) = (Question::new("open", ino), owner(request));
        self.run(asked.operation, move |core| match core.open(asked.ino, flags, owner) {
            Ok(FileHandle(handle)) => reply.opened(KernelHandle(handle), OPEN_REPLY),
            Err(error) => reply.error(asked.failed(&error)),
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        let (asked, name, owner) = (Question::new("create", parent), owned(name), owner(request));
        self.run(asked.operation, move |core| match core.create(asked.ino, &name, mode, owner) {
            Ok((stat, FileHandle(handle))) => {
                let attributes = convert::attributes(&stat);
                let handle = KernelHandle(handle);
                reply.created(&LIFETIME, &attributes, GENERATION, handle, OPEN_REPLY);
            }
            Err(error) => reply.error(asked.failed(&error)),
        });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: KernelHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let asked = Question::new("read", ino);
        let length = usize::try_from(size).unwrap_or(usize::MAX);
        self.run(asked.operation, move |core| {
            asked.bytes(reply, core.view.read(asked.ino, offset, length));
        });
    }

    /// Copies the bytes only where another thread has to write them.
    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: KernelHandle,
        offset: u64,
        bytes: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let asked = Question::new("write", ino);
        if let Some(_slot) = self.workers.slot() {
            self.at_once(asked.operation, |core| {
                core.answer_write(asked, offset, bytes, write_flags, reply);
            });
        } else {
            let (core, bytes) = (Arc::clone(&self.core), Plaintext::from(bytes.to_vec()));
            self.workers.submit(asked.operation, move || {
                core.answer_write(asked, offset, &bytes, write_flags, reply);
            });
        }
    }

    /// Every write has reached the view by now; `OPEN_REPLY` tells kernels that know it not to
    /// ask at all.
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: KernelHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: KernelHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        self.at_once("release", |core| {
            core.view.close(FileHandle(handle.0));
            core.opened.remove(convert::inode(ino));
            reply.ok();
        });
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: KernelHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let asked = Question::new("fsync", ino);
        self.run(asked.operation, move |core| asked.empty(reply, core.view.fsync(asked.ino)));
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let asked = Question::new("opendir", ino);
        self.run(asked.operation, move |core| match core.view.open_dir(asked.ino) {
            Ok(FileHandle(handle)) => reply.opened(KernelHandle(handle), FopenFlags::empty()),
            Err(error) => reply.error(asked.failed(&error)),
        });
    }

    fn readdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: KernelHandle,
        offset: u64,
        reply: ReplyDirectory,
    ) {
        let asked = Question::new("readdir", ino);
        self.run(asked.operation, move |core| {
            listing::names(&core.view, asked, FileHandle(handle.0), offset, reply);
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        ino: INodeNo,
        handle: KernelHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let asked = Question::new("readdirplus", ino);
        self.run(asked.operation, move |core| {
            listing::entries(&core.view, asked, FileHandle(handle.0), offset, reply);
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        handle: KernelHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.at_once("releasedir", |core| {
            core.view.close(FileHandle(handle.0));
            reply.ok();
        });
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: KernelHandle,
        _data_only: bool,
        reply: ReplyEmpty,
    ) {
        let asked = Question::new("fsyncdir", ino);
        self.run(asked.operation, move |core| asked.empty(reply, core.view.fsync(asked.ino)));
    }

    fn statfs(&self, _request: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.at_once("statfs", |core| {
            let stats = core.view.stats();
            let unit = u64::from(STATFS_UNIT_BYTES);
            let (total, free) = (stats.total_bytes / unit, stats.free_bytes / unit);
            // Inodes are limited by bytes only, so as many are free as there are units.
            let files = stats.files.saturating_add(free);
            let unit = STATFS_UNIT_BYTES;
            reply.statfs(total, free, free, files, free, unit, stats.name_bytes_max, unit);
        });
    }

    fn setxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (asked, name, value) = (Question::new("setxattr", ino), owned(name), value.to_vec());
        let mode = match flags {
            0 => XattrMode::Any,
            libc::XATTR_CREATE => XattrMode::Create,
            libc::XATTR_REPLACE => XattrMode::Replace,
            _ => return reply.error(Errno::EINVAL),
        };
        self.run(asked.operation, move |core| {
            asked.empty(reply, core.view.set_xattr(asked.ino, &name, Some(&value), mode));
        });
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        let (asked, name) = (Question::new("getxattr", ino), owned(name));
        self.run(asked.operation, move |core| {
            asked.xattr(reply, size, core.view.xattr(asked.ino, &name));
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let asked = Question::new("listxattr", ino);
        self.run(asked.operation, move |core| {
            asked.xattr(reply, size, core.xattr_names(asked.ino));
        });
    }

    fn removexattr(&self, _request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (asked, name) = (Question::new("removexattr", ino), owned(name));
        self.run(asked.operation, move |core| {
            let removed = core.view.set_xattr(asked.ino, &name, None, XattrMode::Replace);
            asked.empty(reply, removed);
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        _handle: KernelHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let asked = Question::new("fallocate", ino);
        self.run(asked.operation, move |core| {
            asked.empty(reply, core.allocate(asked.ino, offset, length, mode));
        });
    }

    /// Unknown, once and for all: the kernel then finds holes and ends by itself.
    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: KernelHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    /// Unknown, once and for all: the kernel then copies by reading and writing.
    fn copy_file_range(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: KernelHandle,
        _offset: u64,
        _to: INodeNo,
        _to_handle: KernelHandle,
        _to_offset: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _handle: KernelHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _output_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
