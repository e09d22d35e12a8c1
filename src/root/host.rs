//! Is this root a running machine's? Removing drivers from under it would be a disaster, while a container that builds an
//! image is where slimming in place belongs.
//!
//! Only positive evidence counts. That the marks of a container (`/.dockerenv`, `/run/.containerenv`) are missing proves
//! nothing: BuildKit and buildah's chroot isolation set none.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::sysroot::Sysroot;
use crate::names::TreePath;

/// What the first process of a running machine is called: systemd, SysV init and busybox, OpenRC, runit, s6, dinit, finit,
/// procd (OpenWrt), Kairos' own in a UKI.
const INIT_SYSTEMS: [&str; 11] = [
    "systemd",
    "init",
    "openrc-init",
    "runit",
    "runit-init",
    "s6-svscan",
    "dinit",
    "finit",
    "procd",
    "sinit",
    "immucore",
];
/// systemd makes it and nothing else does (`sd_booted(3)`).
const SYSTEMD_RUNS: &str = "run/systemd/system";

/// What can be seen of the machine and the root. A pure value: [`HostFacts::evidence`] judges it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostFacts {
    /// The root is this process's own `/`.
    pub is_own_root: bool,
    /// The root is also PID 1's `/`; `None` where that cannot be seen.
    pub is_init_root: Option<bool>,
    /// What PID 1 is called: the kernel's name of the process and the file name of its program, as far as they can be seen.
    pub init: Vec<String>,
    /// The root has `/run/systemd/system`.
    pub has_systemd_run: bool,
    /// The root's `/run` is a file system of its own, as a running machine's is and an unpacked archive's is not.
    pub run_is_mounted: bool,
}

impl HostFacts {
    /// Looks at `root` and at `/proc`. What cannot be seen is no evidence.
    #[must_use]
    pub fn gather(root: &Sysroot) -> Self {
        let identity = |path: &str| std::fs::metadata(path).ok().map(|metadata| (metadata.dev(), metadata.ino()));
        let metadata = |path: &str| root.metadata(&TreePath::new(path).ok()?).ok();
        let own = rustix::fs::fstat(root.as_fd()).ok().map(|stat| (stat.st_dev, stat.st_ino));
        let comm = std::fs::read_to_string("/proc/1/comm").ok().map(|name| name.trim_end().to_owned());
        let exe = std::fs::read_link("/proc/1/exe").ok().and_then(|path| {
            let path = path.to_string_lossy().into_owned();
            let path = path.strip_suffix(" (deleted)").unwrap_or(&path);
            Some(Path::new(path).file_name()?.to_string_lossy().into_owned())
        });
        Self {
            is_own_root: own.is_some() && own == identity("/"),
            is_init_root: identity("/proc/1/root/").map(|init| Some(init) == own),
            init: comm.into_iter().chain(exe).collect(),
            has_systemd_run: metadata(SYSTEMD_RUNS).is_some(),
            run_is_mounted: metadata("run").is_some_and(|run| Some(run.st_dev) != own.map(|(device, _)| device)),
        }
    }

    /// What shows that the root is a running machine's, in words; `None` where nothing does.
    #[must_use]
    pub fn evidence(&self) -> Option<String> {
        let init = self.init.iter().find(|name| INIT_SYSTEMS.contains(&name.as_str()));
        if let (Some(init), Some(true)) = (init, self.is_init_root) {
            return Some(format!("process 1 is {init} and has this very root"));
        }
        if self.has_systemd_run && self.is_own_root {
            return Some(format!("/{SYSTEMD_RUNS} exists"));
        }
        // The machine's root seen from a container (`-v /:/host`). An archive of a running machine has the directory as well,
        // but nothing mounted.
        if self.has_systemd_run && self.run_is_mounted {
            return Some(format!("/{SYSTEMD_RUNS} exists in it, on a file system that is mounted there"));
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(is_own_root: bool, is_init_root: Option<bool>, init: &str) -> HostFacts {
        HostFacts { is_own_root, is_init_root, init: vec![init.to_owned()], ..HostFacts::default() }
    }

    #[test]
    fn only_positive_evidence_counts() {
        // docker build, podman build, buildah with chroot isolation, tini.
        for init in ["sh", "kairos-init", "docker-init", "tini", "buildkitd", "dumb-init"] {
            assert_eq!(facts(true, Some(true), init).evidence(), None, "{init}");
        }
        // A folder on a running machine; a chroot there; a machine whose process 1 cannot be seen.
        assert_eq!(facts(false, Some(false), "systemd").evidence(), None);
        assert_eq!(facts(true, Some(false), "systemd").evidence(), None);
        assert_eq!(facts(true, None, "systemd").evidence(), None);
        // An archive of a running machine, unpacked.
        assert_eq!(HostFacts { has_systemd_run: true, ..facts(false, Some(false), "systemd") }.evidence(), None);
    }

    #[test]
    fn running_machines_are_known() {
        for init in INIT_SYSTEMS {
            // Also where the root was named by another path: `--root /proc/1/root`, `--root /host`.
            for own in [true, false] {
                assert!(facts(own, Some(true), init).evidence().is_some_and(|text| text.contains(init)));
            }
        }
        assert!(HostFacts { has_systemd_run: true, ..facts(true, None, "?") }.evidence().is_some());
        let seen = HostFacts { has_systemd_run: true, run_is_mounted: true, ..facts(false, None, "sh") };
        assert!(seen.evidence().is_some());
    }
}
