//! [`Class`]: what a machine loses with a driver, by where the kernel keeps the driver.

use std::fmt;

/// What a driver is for. The order is that of the loss, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Class {
    /// Disks and their controllers.
    Storage,
    /// What other devices sit behind: virtual machines' buses, volume management devices, interrupt and clock controllers.
    Bus,
    /// USB host controllers: install media, keyboards, network adapters.
    UsbHost,
    /// The TPM.
    Tpm,
    /// Wired network.
    Network,
    /// Wireless network.
    Wireless,
    /// Keyboards, mice, touchpads.
    Input,
    /// Serial and parallel ports.
    Serial,
    /// Graphics.
    Graphics,
    /// Management controllers and watchdogs.
    Management,
    /// Sensors, power, temperature, the board's small devices.
    Board,
    /// Devices at USB other than host controllers.
    Usb,
    /// Bluetooth.
    Bluetooth,
    /// Sound.
    Sound,
    /// Cameras, tuners.
    Media,
    /// Cryptography and accelerators.
    Accelerator,
    /// Everything else.
    Other,
}

/// By the beginning of the module's path below its module directory; the first that fits.
const BY_PATH: &[(&str, Class)] = &[
    ("kernel/drivers/ata/", Class::Storage),
    ("kernel/drivers/block/", Class::Storage),
    ("kernel/drivers/message/fusion/", Class::Storage),
    ("kernel/drivers/mmc/", Class::Storage),
    ("kernel/drivers/nvme/", Class::Storage),
    ("kernel/drivers/nvdimm/", Class::Storage),
    ("kernel/drivers/scsi/", Class::Storage),
    ("kernel/drivers/ufs/", Class::Storage),
    ("kernel/drivers/usb/storage/", Class::Storage),
    ("kernel/drivers/char/tpm/", Class::Tpm),
    ("kernel/drivers/net/wireless/", Class::Wireless),
    ("kernel/drivers/net/wwan/", Class::Wireless),
    ("kernel/drivers/net/can/", Class::Other),
    ("kernel/drivers/net/", Class::Network),
    ("kernel/net/mac80211/", Class::Wireless),
    ("kernel/net/wireless/", Class::Wireless),
    ("kernel/drivers/bus/", Class::Bus),
    ("kernel/drivers/clk/", Class::Bus),
    ("kernel/drivers/gpio/", Class::Bus),
    ("kernel/drivers/hv/", Class::Bus),
    ("kernel/drivers/irqchip/", Class::Bus),
    ("kernel/drivers/pci/", Class::Bus),
    ("kernel/drivers/phy/", Class::Bus),
    ("kernel/drivers/pinctrl/", Class::Bus),
    ("kernel/drivers/regulator/", Class::Bus),
    ("kernel/drivers/reset/", Class::Bus),
    ("kernel/drivers/virtio/", Class::Bus),
    ("kernel/drivers/xen/", Class::Bus),
    ("kernel/drivers/usb/cdns3/", Class::UsbHost),
    ("kernel/drivers/usb/chipidea/", Class::UsbHost),
    ("kernel/drivers/usb/core/", Class::UsbHost),
    ("kernel/drivers/usb/dwc2/", Class::UsbHost),
    ("kernel/drivers/usb/dwc3/", Class::UsbHost),
    ("kernel/drivers/usb/host/", Class::UsbHost),
    ("kernel/drivers/usb/musb/", Class::UsbHost),
    ("kernel/drivers/usb/serial/", Class::Serial),
    ("kernel/drivers/usb/class/", Class::Serial),
    ("kernel/drivers/parport/", Class::Serial),
    ("kernel/drivers/tty/", Class::Serial),
    ("kernel/drivers/hid/", Class::Input),
    ("kernel/drivers/input/", Class::Input),
    ("kernel/drivers/platform/surface/", Class::Input),
    ("kernel/drivers/char/agp/", Class::Graphics),
    ("kernel/drivers/gpu/", Class::Graphics),
    ("kernel/drivers/video/", Class::Graphics),
    ("kernel/drivers/char/ipmi/", Class::Management),
    ("kernel/drivers/misc/mei/", Class::Management),
    ("kernel/drivers/watchdog/", Class::Management),
    ("kernel/drivers/bluetooth/", Class::Bluetooth),
    ("kernel/net/bluetooth/", Class::Bluetooth),
    ("kernel/sound/", Class::Sound),
    ("kernel/drivers/soundwire/", Class::Sound),
    ("kernel/drivers/media/", Class::Media),
    ("kernel/drivers/staging/media/", Class::Media),
    ("kernel/drivers/accel/", Class::Accelerator),
    ("kernel/drivers/crypto/", Class::Accelerator),
    ("kernel/drivers/infiniband/", Class::Network),
    ("kernel/arch/", Class::Accelerator),
    ("kernel/crypto/", Class::Accelerator),
    ("kernel/drivers/acpi/", Class::Board),
    ("kernel/drivers/char/", Class::Board),
    ("kernel/drivers/cpufreq/", Class::Board),
    ("kernel/drivers/edac/", Class::Board),
    ("kernel/drivers/hwmon/", Class::Board),
    ("kernel/drivers/i2c/", Class::Board),
    ("kernel/drivers/leds/", Class::Board),
    ("kernel/drivers/mfd/", Class::Board),
    ("kernel/drivers/misc/cardreader/", Class::Storage),
    ("kernel/drivers/platform/", Class::Board),
    ("kernel/drivers/power/", Class::Board),
    ("kernel/drivers/powercap/", Class::Board),
    ("kernel/drivers/rtc/", Class::Board),
    ("kernel/drivers/spi/", Class::Board),
    ("kernel/drivers/thermal/", Class::Board),
    ("kernel/drivers/usb/", Class::Usb),
];

impl Class {
    /// Of a module by its path below the module directory: `kernel/drivers/nvme/host/nvme.ko.xz`.
    #[must_use]
    pub fn of_module(relative: &str) -> Self {
        BY_PATH.iter().find(|(start, _)| relative.starts_with(start)).map_or(Self::Other, |(_, class)| *class)
    }

    /// Whether its loss may keep a machine from booting, unlocking its disks or being reached. Wireless is left to whoever knows
    /// whether the machine has a wire.
    #[must_use]
    pub const fn is_vital(self) -> bool {
        matches!(self, Self::Storage | Self::Bus | Self::UsbHost | Self::Tpm | Self::Network)
    }

    /// What the machine cannot do any more.
    #[must_use]
    pub const fn consequence(self) -> &'static str {
        match self {
            Self::Storage => "may not find its disks",
            Self::Bus => "may not find what sits behind its buses",
            Self::UsbHost => "may not see install media, keyboards and adapters at USB",
            Self::Tpm => "will not unlock its disks",
            Self::Network | Self::Wireless => "will not be reached over the network",
            _ => "boots, unlocks and is reached without it",
        }
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Storage => "storage",
            Self::Bus => "bus",
            Self::UsbHost => "usb-host",
            Self::Tpm => "tpm",
            Self::Network => "network",
            Self::Wireless => "wireless",
            Self::Input => "input",
            Self::Serial => "serial",
            Self::Graphics => "graphics",
            Self::Management => "management",
            Self::Board => "board",
            Self::Usb => "usb",
            Self::Bluetooth => "bluetooth",
            Self::Sound => "sound",
            Self::Media => "media",
            Self::Accelerator => "accelerator",
            Self::Other => "other",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_that_fits() {
        assert_eq!(Class::of_module("kernel/drivers/net/wireless/intel/iwlwifi/iwlwifi.ko.xz"), Class::Wireless);
        assert_eq!(Class::of_module("kernel/drivers/net/ethernet/intel/igb/igb.ko"), Class::Network);
        assert_eq!(Class::of_module("kernel/drivers/usb/host/xhci-pci.ko"), Class::UsbHost);
        assert_eq!(Class::of_module("kernel/drivers/usb/misc/x.ko"), Class::Usb);
        assert_eq!(Class::of_module("updates/x.ko"), Class::Other);
        assert!(Class::Tpm.is_vital() && !Class::Sound.is_vital());
    }
}
