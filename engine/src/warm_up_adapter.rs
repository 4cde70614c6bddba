//! Adapters without content, for warming up: their layout is all that a kernel's variant depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use polylora_adapters::{Digest, LoadedAdapter, Site, SiteCatalog};
use polylora_kernels::extent::{ExtentLayout, HostExtent, SiteShape};

/// An adapter of `rank` on the first layer of each shape that the model has; all values are zero.
///
/// Kernels are the same for every layer of a shape, so that a few layers stand for all and the adapter needs little room.
pub(crate) fn warm_up_adapter(catalog: &SiteCatalog, rank: usize) -> LoadedAdapter {
    let mut groups: BTreeMap<u32, Vec<&Site>> = BTreeMap::new();
    for site in catalog.sites() {
        groups.entry(site.group).or_default().push(site);
    }
    let mut seen = BTreeSet::new();
    groups.retain(|_, sites| {
        let widths: Vec<_> = sites.iter().map(|site| (site.in_width, site.out_width)).collect();
        seen.insert(widths)
    });
    let shapes = groups.values().flatten().map(|site| SiteShape {
        site: site.id,
        in_width: site.in_width,
        out_width: site.out_width,
        rank,
        has_gain: false,
        has_bias: false,
    });
    let layout = ExtentLayout::new(shapes.collect(), |site| catalog.site(site).group);
    // Of no content, so no content's digest: nobody finds 32 equal bytes by hashing.
    LoadedAdapter {
        digest: Digest([rank as u8; 32]),
        extent: Arc::new(HostExtent::zeroed(layout)),
        chat: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use polylora_kernels::extent::SiteId;

    #[test]
    fn each_shape_of_layer_is_there_once_with_all_its_sites() {
        let widths = [(4, 4, 0), (4, 4, 0), (4, 8, 1), (8, 4, 2), (4, 4, 3), (4, 4, 3), (4, 8, 4), (8, 4, 5)];
        let sites = widths.iter().enumerate().map(|(id, &(in_width, out_width, group))| Site {
            id: SiteId(id as u32),
            name: format!("layer.{id}"),
            in_width,
            out_width,
            group,
            offset: 0,
        });
        let adapter = warm_up_adapter(&SiteCatalog::new(sites.collect()), 16);
        let slots = adapter.extent.layout().slots();
        assert_eq!(slots.iter().map(|slot| slot.shape.site.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(slots.iter().all(|slot| slot.shape.rank == 16));
        assert_ne!(adapter.digest, warm_up_adapter(&SiteCatalog::new(vec![]), 8).digest);
    }
}
