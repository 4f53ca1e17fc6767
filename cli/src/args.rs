//! The command line: clap types and the texts of `--help`, nothing else.
//!
//! Names, defaults and meanings are an interface that scripts rely on. What an argument does is
//! in `commands`; what a setting does is in `settings`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

const AFTER_HELP: &str = "\
Getting started:
  xorfs daemon --join HOST:PORT &      run a node (leave --join out for the first one)
  xorfs mount ~/net                    see the network as a folder
  cp -r photos ~/net/main/             copy something in
  xorfs link ~/net/main/photos         a link that opens it, for a friend
  xorfs get xorfs:…                    fetch what a link names, anywhere

Exit codes:
  0 done   1 failed   2 bad usage   3 not found (link, path or block, after the deadline)
  4 refused (exists, read only, no permission, full)   5 corrupt";

/// An encrypted, content-addressed network filesystem.
///
/// What you copy in is cut into encrypted blocks, named by their hash and kept by several nodes;
/// only the holder of a link can read it.
/// Everything works without a prior `init`: the first command makes the home.
#[derive(Debug, Parser)]
#[command(name = "xorfs", version, after_help = AFTER_HELP, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Folder that holds this node's state [default: the platform's data folder, such as
    /// ~/.local/share/xorfs]
    #[arg(
        long,
        global = true,
        env = "XORFS_HOME",
        value_name = "DIR",
        hide_env_values = true,
        display_order = 900
    )]
    pub(crate) home: Option<PathBuf>,
    /// File whose first line is the passphrase of the keyring, where it has one; without it a
    /// terminal is asked
    #[arg(
        long,
        global = true,
        env = "XORFS_PASSPHRASE_FILE",
        value_name = "FILE",
        hide_env_values = true,
        display_order = 901
    )]
    pub(crate) passphrase_file: Option<PathBuf>,
    /// Print results as JSON
    #[arg(long, global = true, display_order = 902)]
    pub(crate) json: bool,
    /// Say more on standard error; repeat for details
    #[arg(short, long, global = true, action = ArgAction::Count, display_order = 903)]
    pub(crate) verbose: u8,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a node in the foreground until it is told to stop (SIGTERM or Ctrl-C)
    Daemon(Box<DaemonArgs>),
    /// Show the network as a folder
    Mount(MountArgs),
    /// Take a mount away; always works, also while files are open
    Unmount(UnmountArgs),
    /// Copy files and directories in and print a link for each
    Put(PutArgs),
    /// Fetch what a link names
    Get(GetArgs),
    /// Print a file's content
    Cat(CatArgs),
    /// List a directory, or the volumes
    Ls(LsArgs),
    /// Print the link of a file or directory
    Link(LinkArgs),
    /// Wait until everything is safe on other nodes
    Sync(SyncArgs),
    /// Your volumes and those you follow
    #[command(subcommand)]
    Volume(VolumeCommand),
    /// Keep volumes and links whole on this node; without arguments list what is kept
    Pin(PinArgs),
    /// Free the space of what nothing needs any more
    Gc(GcArgs),
    /// Check every block and file of this node, and mend what is damaged
    Check(CheckArgs),
    /// Set, change or remove the passphrase of the keyring
    Passphrase(PassphraseArgs),
    /// Open a locked keyring of the running daemon
    Unlock,
    /// Let the running daemon forget the keys of all volumes
    Lock,
    /// What this node is doing: volumes, space, replication
    Status,
    /// The other nodes that are known
    Peers,
    /// Print a completion script for a shell
    Completions(CompletionsArgs),
}

/// Run a node in the foreground.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xorfs daemon                                     the first node of a network of your own
  xorfs daemon --join 192.0.2.7:7447 --quota 50GiB join one, and give it 50 GiB
  xorfs daemon --mount ~/net                       with a mount from the start

The first line on standard output is 'listening on ADDR as NODEID'.
SIGTERM and SIGINT flush, unmount and leave cleanly.")]
pub(crate) struct DaemonArgs {
    #[command(flatten)]
    pub(crate) node: NodeArgs,
    /// UDP address to listen on, such as 0.0.0.0:7447; port 0 lets the system pick a free one
    /// [default: every IPv4 interface, on the port of the last run where it is free]
    #[arg(long, env = "XORFS_LISTEN", value_name = "ADDR")]
    pub(crate) listen: Option<SocketAddr>,
    /// Mount at this folder as soon as the node runs
    #[arg(long, value_name = "DIR")]
    pub(crate) mount: Option<PathBuf>,
    /// Make the mount of --mount read only
    #[arg(long, requires = "mount")]
    pub(crate) read_only: bool,
    /// Let other users of this machine see the mount of --mount
    #[arg(long, requires = "mount")]
    pub(crate) allow_other: bool,
    /// Leave when the last mount is gone; `xorfs mount` starts its own node so
    #[arg(long, hide = true, requires = "mount")]
    pub(crate) exit_with_mount: bool,
}

/// What a node needs besides its address; commands that run one of their own read it from the
/// environment.
#[derive(Debug, Clone, Args)]
pub(crate) struct NodeArgs {
    /// Address of a node to join through; may be repeated. Peers of earlier runs are remembered
    #[arg(
        long,
        env = "XORFS_JOIN",
        value_name = "HOST:PORT",
        value_delimiter = ',',
        value_parser = host_and_port
    )]
    pub(crate) join: Vec<String>,
    /// Most disk space for blocks, such as 500MB or 20GiB [default: what the disk holds]
    #[arg(long, env = "XORFS_QUOTA", value_name = "SIZE")]
    pub(crate) quota: Option<ByteSize>,
    /// Copies of each block that the network keeps
    #[arg(
        long,
        env = "XORFS_REPLICAS",
        value_name = "COUNT",
        default_value_t = 5,
        value_parser = clap::value_parser!(u8).range(1..=20)
    )]
    pub(crate) replicas: u8,
    /// How long a read waits for a block before it fails, such as 30s
    #[arg(
        long,
        env = "XORFS_FETCH_DEADLINE",
        value_name = "TIME",
        default_value = "30s",
        value_parser = humantime::parse_duration
    )]
    pub(crate) fetch_deadline: Duration,
    /// Time between two passes that bring blocks back to their number of copies
    #[arg(
        long,
        env = "XORFS_REPAIR_INTERVAL",
        value_name = "TIME",
        default_value = "10min",
        value_parser = humantime::parse_duration
    )]
    pub(crate) repair_interval: Duration,
    /// How often followed volumes are asked for news
    #[arg(
        long,
        env = "XORFS_HEAD_POLL",
        value_name = "TIME",
        default_value = "2s",
        value_parser = humantime::parse_duration
    )]
    pub(crate) head_poll: Duration,
    /// Least time between two garbage collections while there is room
    #[arg(
        long,
        env = "XORFS_GC_INTERVAL",
        value_name = "TIME",
        default_value = "1h",
        value_parser = humantime::parse_duration
    )]
    pub(crate) gc_interval: Duration,
}

#[derive(Debug, Args)]
#[command(after_help = "\
In the mount:
  DIR/main/            your own volume, writable
  DIR/VOLUME/          each volume you created or follow
  DIR/link/xorfs:…     what any link names, read only

Where no daemon runs, a node is started in the background; it leaves with the mount.

Examples:
  xorfs mount ~/net
  ls ~/net/main")]
pub(crate) struct MountArgs {
    /// An empty folder
    pub(crate) dir: PathBuf,
    /// Stay until unmounted or Ctrl-C
    #[arg(short, long)]
    pub(crate) foreground: bool,
    /// Refuse every change through this mount
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Let other users of this machine see it
    #[arg(long)]
    pub(crate) allow_other: bool,
}

#[derive(Debug, Args)]
pub(crate) struct UnmountArgs {
    /// The folder that was mounted at
    pub(crate) dir: PathBuf,
}

/// How safe data must be before a command returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// Crash-safe on this disk; a link names sealed content, so printing it seals right after
    Staged,
    /// Encrypted into blocks and named by the volume's newest root
    Sealed,
    /// Acknowledged by enough other nodes
    Replicated,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Each PATH is copied under its own name into the volume's top, or into --to; one link is printed
for each, in order. An existing file is replaced, an existing directory is added to; a file never
replaces a directory or the other way round. A file that changes while it is read is left out,
named, and the exit code is 1.

Modes, times, hard and symbolic links, holes, pipes, devices and extended attributes are kept, and
owners where root puts. Files that are as they were when they were put to the same place last
(device, inode, size and times) are neither read nor sent again, so an interrupted put goes on
where it was.

Examples:
  xorfs put report.pdf
  xorfs put photos music --to backup/2026
  xorfs put big.iso --wait sealed")]
pub(crate) struct PutArgs {
    /// Files and directories to copy in
    #[arg(required = true, value_name = "PATH")]
    pub(crate) paths: Vec<PathBuf>,
    /// The volume to copy into
    #[arg(long, default_value = "main", value_name = "NAME")]
    pub(crate) volume: String,
    /// Directory inside the volume to copy into; made where it is missing
    #[arg(long, value_name = "DIR")]
    pub(crate) to: Option<PathBuf>,
    /// How safe it must be before the command returns [default: replicated with live peers,
    /// sealed without]
    #[arg(long, value_enum, value_name = "LEVEL")]
    pub(crate) wait: Option<Level>,
}

#[derive(Debug, Args)]
#[command(after_help = "\
SOURCE is a link (xorfs:…), a path below one (xorfs:…/dir/file), or VOLUME:/PATH for what is in a
volume of your own. An interrupted get goes on where it stopped: what was fetched stays in
.NAME.xorfs-partial beside DEST until all is there; a file that cannot be fetched does not stop the
others.

Modes, times, hard and symbolic links, holes, pipes and extended attributes come back, and owners
where root gets. Devices, set-id bits and security attributes come back from a volume of your own
only, never from a link. An entry that cannot be made here is named and left out, and the exit code
is 4.

Examples:
  xorfs get xorfs:…                fetch under the name it had
  xorfs get xorfs:… photos         fetch as ./photos
  xorfs get main:/report.pdf /tmp/report.pdf")]
pub(crate) struct GetArgs {
    /// What to fetch
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
    /// Where to put it [default: the name it had, in the current directory]
    pub(crate) dest: Option<PathBuf>,
    /// Replace DEST where it exists; a directory is replaced as a whole, and never by a file
    #[arg(short, long)]
    pub(crate) force: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// A link, LINK/PATH or VOLUME:/PATH
    #[arg(value_name = "SOURCE")]
    pub(crate) source: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  xorfs ls                     the volumes
  xorfs ls -l main:/           what is in your own volume
  xorfs ls xorfs:…/photos      what is below a link")]
pub(crate) struct LsArgs {
    /// A link, LINK/PATH or VOLUME:/PATH; without it the volumes are listed
    #[arg(value_name = "SOURCE")]
    pub(crate) source: Option<String>,
    /// With mode, owner, size and time
    #[arg(short, long)]
    pub(crate) long: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
A link opens exactly what it names, as it is now, and never changes. With --live it names a whole
volume to read, and follows it, so PATH is then the volume's top. Whoever holds a link can read what it names: share it like a key.

Examples:
  xorfs link ~/net/main/photos
  xorfs link main:/photos
  xorfs link main: --live")]
pub(crate) struct LinkArgs {
    /// A path in a mount, or VOLUME:/PATH
    pub(crate) path: PathBuf,
    /// A link to the volume, to read; it follows later changes
    #[arg(long)]
    pub(crate) live: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Seals what is not sealed yet, then waits until the network has acknowledged enough copies of
every block, and of the volumes' newest roots. Gives up when there are no peers, or when nothing
has moved for a minute, and says how much is left.")]
pub(crate) struct SyncArgs {
    /// Wait for this only: a path in a mount, or VOLUME:/PATH
    pub(crate) path: Option<PathBuf>,
    /// Give up after this time, such as 10min
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) timeout: Option<Duration>,
}

/// With whom a volume shares blocks of equal content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ConvergenceArg {
    /// With itself
    Volume,
    /// With every volume of the network that chose so
    Network,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VolumeCommand {
    /// List the volumes
    List,
    /// Make a volume of your own
    Create {
        /// Its name in your mount; others choose their own
        name: String,
        /// Whose blocks of equal content are stored once: this volume's alone, or those of the
        /// whole network, in which case anybody who has a file can tell that it is yours too
        #[arg(long, value_enum, default_value_t = ConvergenceArg::Volume, value_name = "WITH")]
        convergence: ConvergenceArg,
    },
    /// Follow a volume that somebody shared, or take part in it with a read-write link
    Follow {
        /// A live link
        link: String,
        /// Its name in your mount
        name: String,
    },
    /// Print a live link to a volume
    Share {
        /// The volume
        name: String,
        /// A link that also allows to write; hand it only to yourself on another machine
        #[arg(long)]
        write: bool,
    },
    /// Forget a volume; whoever holds a link still reads it
    Forget {
        /// The volume
        name: String,
        /// Also forget a volume of your own, which nobody can write again without its
        /// read-write link
        #[arg(short, long)]
        force: bool,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "\
What is pinned is fetched whole and never evicted. Your own volumes start pinned; with --remove
their blocks may go once other nodes hold them, and are fetched again when they are read. A volume
goes on being kept as it changes; a link, LINK/PATH or VOLUME:/PATH is kept as it is now.

Examples:
  xorfs pin xorfs:…            keep what a link names
  xorfs pin films              keep a followed volume, also its later versions
  xorfs pin main --remove      let blocks of your own volume go where space is needed")]
pub(crate) struct PinArgs {
    /// A volume's name, a link, LINK/PATH or VOLUME:/PATH
    #[arg(value_name = "LINK|VOLUME")]
    pub(crate) what: Vec<String>,
    /// Stop keeping it
    #[arg(long, requires = "what")]
    pub(crate) remove: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Goes through all that your volumes, pins and open files need, and gives back the space of the rest.
A daemon does this by itself from time to time, and when space runs out. Nothing that is being
written or read is touched. Where something that is needed cannot be read, nothing is removed.")]
pub(crate) struct GcArgs {
    /// Say what would go and leave it
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Reads every block and compares it with its name, and every tree of your volumes and pins. Blocks
that do not match are set aside and named together with the files that need them. With --repair
they are fetched again from other nodes. Ends with 0 where all is well or was mended, with 5 where
something stays damaged.")]
pub(crate) struct CheckArgs {
    /// Mend what is found, with the help of other nodes
    #[arg(long)]
    pub(crate) repair: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
The keyring holds the keys of your volumes and your pins. With a passphrase its file is useless to
whoever copies it, and a daemon that starts without the passphrase serves the blocks of others but
shows no volume until `xorfs unlock`. There is no way to open the keyring without the passphrase.

Passphrases are typed on the terminal, or read from files; they are never arguments.

Examples:
  xorfs passphrase             set or change it
  xorfs passphrase --remove    leave the file to its permissions again")]
pub(crate) struct PassphraseArgs {
    /// Take the passphrase off
    #[arg(long)]
    pub(crate) remove: bool,
    /// File whose first line is the new passphrase
    #[arg(long, value_name = "FILE", conflicts_with = "remove")]
    pub(crate) new_passphrase_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  xorfs completions bash > ~/.local/share/bash-completion/completions/xorfs"
)]
pub(crate) struct CompletionsArgs {
    /// The shell
    pub(crate) shell: Shell,
}

fn host_and_port(text: &str) -> Result<String, String> {
    match text.rsplit_once(':') {
        Some((host, port))
            if !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0) =>
        {
            Ok(text.to_owned())
        }
        _ => Err("expected HOST:PORT, such as 192.0.2.7:7447".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_and_addresses_are_checked() {
        let daemon = |args: &[&str]| Cli::try_parse_from([&["xorfs", "daemon"], args].concat());
        for good in ["1GiB", "500MB", "64 MiB", "1000"] {
            assert!(daemon(&["--quota", good]).is_ok(), "{good}");
        }
        assert!(daemon(&["--quota", "much"]).is_err());
        assert!(daemon(&["--join", "localhost:7447", "--join", "[::1]:1"]).is_ok());
        assert!(daemon(&["--join", "localhost"]).is_err());
        assert!(daemon(&["--fetch-deadline", "1500ms"]).is_ok());
        let cli = daemon(&["--quota", "1GiB"]).unwrap();
        let Command::Daemon(args) = cli.command else { panic!("a daemon") };
        assert_eq!(args.node.quota.map(|quota| quota.as_u64()), Some(1 << 30));
    }

    #[test]
    fn home_may_stand_after_the_command() {
        let cli = Cli::try_parse_from(["xorfs", "status", "--home", "/h", "--json"]).unwrap();
        assert_eq!(cli.home, Some(PathBuf::from("/h")));
        assert!(cli.json);
    }
}
