//! Which GPUs are here, and which one a name means.

use crate::error::{Error, Result};

/// An adapter that this machine has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adapter {
    /// Name, as the driver gives it.
    pub name: String,
    /// `vulkan`, `metal`, `dx12`, `gl` or `webgpu`.
    pub backend: &'static str,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub device_type: &'static str,
    /// Driver and its version.
    pub driver: String,
    /// Name and value of the limits that matter here.
    pub limits: Vec<(&'static str, u64)>,
    /// Optional features that matter here.
    pub features: Vec<&'static str>,
}

impl Adapter {
    fn new(adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        let limits = adapter.limits();
        let features = [
            ("shader-f16", wgpu::Features::SHADER_F16),
            ("subgroup", wgpu::Features::SUBGROUP),
            ("shader-int64", wgpu::Features::SHADER_INT64),
            ("timestamp-query", wgpu::Features::TIMESTAMP_QUERY),
            ("mappable-primary-buffers", wgpu::Features::MAPPABLE_PRIMARY_BUFFERS),
        ];
        Self {
            backend: backend_name(info.backend),
            device_type: match info.device_type {
                wgpu::DeviceType::DiscreteGpu => "discrete",
                wgpu::DeviceType::IntegratedGpu => "integrated",
                wgpu::DeviceType::VirtualGpu => "virtual",
                wgpu::DeviceType::Cpu => "software",
                wgpu::DeviceType::Other => "other",
            },
            driver: driver_name(&info),
            limits: vec![
                ("max_storage_buffer_binding_size", limits.max_storage_buffer_binding_size),
                ("max_buffer_size", limits.max_buffer_size),
                ("max_compute_workgroups_per_dimension", u64::from(limits.max_compute_workgroups_per_dimension)),
                ("max_compute_invocations_per_workgroup", u64::from(limits.max_compute_invocations_per_workgroup)),
                ("max_compute_workgroup_storage_size", u64::from(limits.max_compute_workgroup_storage_size)),
            ],
            features: features.into_iter().filter(|(_, f)| adapter.features().contains(*f)).map(|(n, _)| n).collect(),
            name: info.name,
        }
    }
}

/// Driver and version in one string, as far as the backend tells.
pub(crate) fn driver_name(info: &wgpu::AdapterInfo) -> String {
    [info.driver.trim(), info.driver_info.trim()].into_iter().filter(|s| !s.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The backend's name on the command line.
pub(crate) fn backend_name(backend: wgpu::Backend) -> &'static str {
    match backend {
        wgpu::Backend::Vulkan => "vulkan",
        wgpu::Backend::Metal => "metal",
        wgpu::Backend::Dx12 => "dx12",
        wgpu::Backend::Gl => "gl",
        wgpu::Backend::BrowserWebGpu => "webgpu",
        wgpu::Backend::Noop => "noop",
    }
}

/// All adapters, hardware first, in the order that wgpu gives.
pub async fn adapters() -> Vec<Adapter> {
    let mut adapters: Vec<_> = enumerate(wgpu::Backends::all()).await.iter().map(Adapter::new).collect();
    adapters.sort_by_key(|adapter| adapter.device_type == "software");
    adapters
}

/// Adapters of these backends. GL is asked for by itself, as it complains on the terminal where there is no display.
async fn enumerate(backends: wgpu::Backends) -> Vec<wgpu::Adapter> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends,
        flags: wgpu::InstanceFlags::empty(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    instance.enumerate_adapters(backends).await
}

/// The best hardware adapter: discrete before integrated before others. Software is never chosen unasked.
pub(crate) async fn best() -> Option<wgpu::Adapter> {
    let rank = |adapter: &wgpu::Adapter| match adapter.get_info().device_type {
        wgpu::DeviceType::DiscreteGpu => 0,
        wgpu::DeviceType::IntegratedGpu => 1,
        wgpu::DeviceType::VirtualGpu => 2,
        wgpu::DeviceType::Other => 3,
        wgpu::DeviceType::Cpu => 4,
    };
    for backends in [wgpu::Backends::PRIMARY, wgpu::Backends::GL] {
        let best = enumerate(backends).await.into_iter().min_by_key(rank);
        if let Some(adapter) = best.filter(|adapter| rank(adapter) < 4) {
            return Some(adapter);
        }
    }
    None
}

/// The adapter that `wanted` means: a part of its name in any case, with `vulkan:`, `metal:`, `dx12:` or `gl:` before it
/// to choose the backend (GL comes last otherwise), and `#1`, `#2`, … behind it to choose among cards of one name.
pub(crate) async fn named(wanted: &str) -> Result<wgpu::Adapter> {
    let backend = [
        ("vulkan:", wgpu::Backends::VULKAN),
        ("metal:", wgpu::Backends::METAL),
        ("dx12:", wgpu::Backends::DX12),
        ("gl:", wgpu::Backends::GL),
    ]
    .into_iter()
    .find(|(prefix, _)| wanted.to_ascii_lowercase().starts_with(prefix));
    let (name, backends) = match backend {
        Some((prefix, backends)) => (&wanted[prefix.len()..], vec![backends]),
        None => (wanted, vec![wgpu::Backends::PRIMARY, wgpu::Backends::GL]),
    };
    for backends in backends {
        let adapters = enumerate(backends).await;
        let names: Vec<String> = adapters.iter().map(|adapter| adapter.get_info().name).collect();
        if let Some(index) = choose(wanted, name, &names)? {
            return adapters.into_iter().nth(index).ok_or_else(|| no_adapter(wanted, Vec::new()));
        }
    }
    Err(no_adapter(wanted, adapters().await))
}

fn no_adapter(wanted: &str, adapters: Vec<Adapter>) -> Error {
    let names: Vec<String> = adapters.iter().map(|a| format!("{}:{}", a.backend, a.name)).collect();
    let available = match names.as_slice() {
        [] => "this machine has none, so use --device cpu".to_owned(),
        names => format!("there are: {}", names.join(", ")),
    };
    Error::NoAdapter { wanted: wanted.to_owned(), available }
}

/// Index of the one name that `name` means; `None` where it fits none.
fn choose(wanted: &str, name: &str, names: &[String]) -> Result<Option<usize>> {
    let (part, number) = match name.rsplit_once('#').map(|(part, number)| (part, number.parse::<usize>())) {
        Some((part, Ok(number))) => (part, Some(number)),
        _ => (name, None),
    };
    let lower = part.to_ascii_lowercase();
    let fits: Vec<usize> = (0..names.len()).filter(|&i| names[i].to_ascii_lowercase().contains(&lower)).collect();
    // A name in full means that adapter, even where it is a part of another's name.
    let exact: Vec<usize> = fits.iter().copied().filter(|&i| names[i].eq_ignore_ascii_case(part)).collect();
    let fits = if exact.is_empty() { fits } else { exact };
    match (fits.as_slice(), number) {
        ([], _) => Ok(None),
        (&[only], None) => Ok(Some(only)),
        (fits, Some(number)) => Ok(number.checked_sub(1).and_then(|n| fits.get(n).copied())),
        (fits, None) => {
            let all_alike = fits.iter().all(|&i| names[i] == names[fits[0]]);
            let list = fits.iter().enumerate().map(|(n, &i)| match all_alike {
                true => format!("{}#{}", names[i], n + 1),
                false => names[i].clone(),
            });
            Err(Error::AmbiguousAdapter { wanted: wanted.to_owned(), matches: list.collect::<Vec<_>>().join(", ") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(name: &str, names: &[&str]) -> Result<Option<usize>> {
        choose(name, name, &names.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn a_part_of_a_name_in_any_case_will_do() {
        let names = ["NVIDIA GeForce RTX 4090", "llvmpipe (LLVM 15.0.6, 256 bits)"];
        assert_eq!(chosen("LLVMpipe", &names).expect("one fits"), Some(1));
        assert_eq!(chosen("4090", &names).expect("one fits"), Some(0));
        assert_eq!(chosen("arc", &names).expect("none fits"), None);
    }

    #[test]
    fn ambiguity_is_an_error_that_lists_the_names() {
        let names = ["RTX 4090", "RTX 4090 Ti"];
        assert_eq!(chosen("rtx 4090", &names).expect("in full"), Some(0));
        let error = chosen("rtx", &names).expect_err("two fit").to_string();
        assert!(error.contains("RTX 4090, RTX 4090 Ti"), "{error}");
    }

    #[test]
    fn cards_of_one_name_have_numbers() {
        let names = ["H100", "H100"];
        let error = chosen("h100", &names).expect_err("two fit").to_string();
        assert!(error.contains("H100#1, H100#2"), "{error}");
        assert_eq!(chosen("h100#2", &names).expect("a number"), Some(1));
        assert_eq!(chosen("h100#3", &names).expect("none fits"), None);
        assert_eq!(chosen("h100#0", &names).expect("none fits"), None);
    }
}
