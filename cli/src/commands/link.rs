//! `xorfs link`: the link of a path in a mount or in a volume.

use std::path::Path;

use anyhow::Context;
use rustix::io::Errno;

use crate::api::types::LinkReply;
use crate::args::LinkArgs;
use crate::attach::with_node;
use crate::exit::Failure;
use crate::home::Home;
use crate::output::Output;
use crate::target::{in_mount, in_view_or_mount, volume_path};

/// Longest link in bytes that is read from a mount; a link is some hundred.
const LINK_BYTES_MAX: usize = 4096;

pub(crate) async fn run(home: &Home, args: &LinkArgs, out: Output) -> anyhow::Result<()> {
    let in_volume = args.path.to_str().is_some_and(|text| volume_path(text).is_some());
    let link = if in_volume || args.live {
        let query = in_view_or_mount(&args.path)?;
        with_node(home, async |client| client.link(query, args.live).await).await?
    } else {
        // Any mount of xorfs answers this, whichever home it belongs to.
        link_in_mount(&args.path)?
    };
    out.value(&LinkReply { link }, |reply| reply.link.clone())
}

fn link_in_mount(path: &Path) -> anyhow::Result<String> {
    let shown = || path.display().to_string();
    let absolute = in_mount(path)?;
    let mut value = vec![0; LINK_BYTES_MAX];
    let length = match rustix::fs::lgetxattr(&absolute, "user.xorfs.link", value.as_mut_slice()) {
        Ok(length) => length,
        Err(Errno::NODATA | Errno::NOTSUP | Errno::PERM) => {
            let text = format!(
                "{} has no link: it is neither a file nor a directory in a mount of xorfs",
                path.display()
            );
            return Err(Failure::usage(text).into());
        }
        Err(error) => return Err(std::io::Error::from(error)).with_context(shown),
    };
    value.truncate(length);
    String::from_utf8(value).with_context(shown)
}
