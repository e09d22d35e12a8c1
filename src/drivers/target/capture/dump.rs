//! Dumps of `lspci -n`, `lspci -nn` (and `-vvnn`) and `lsusb` (and `-v`) -> modaliases.
//!
//! A dump tells less than the kernel knows: `lspci -n` has neither the subsystem nor the programming interface. A subsystem that is
//! not told stays 0; an interface that is not told is taken from what the text or the bound driver says of it, or from what
//! devices of the class have ([`interfaces`]): where these are several, the device stands in the capture once for each.

use super::{Capture, CaptureError};

/// PCI base class and subclass of USB controllers.
const USB: u32 = 0x0c03;

/// One device of a dump of `lspci`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Pci {
    class: u32,
    vendor: u32,
    device: u32,
    subsystem: (u32, u32),
    interface: Option<u32>,
    /// The line without its ids, and the lines below it, in lower case.
    hints: String,
}

/// Reads a dump.
///
/// # Errors
/// [`CaptureError::NoCapture`] where no line is one of a dump.
pub(super) fn parse(text: &str, file: &str) -> Result<Capture, CaptureError> {
    let mut capture = Capture::default();
    let mut device: Option<Pci> = None;
    let mut usb: Option<Usb> = None;
    for line in text.lines() {
        if let Some(next) = pci(line) {
            finish(&mut capture, device.replace(next));
        } else if let Some(next) = Usb::new(line) {
            finish(&mut capture, device.take());
            next.add(&mut capture);
            usb = Some(next);
        } else if line.starts_with([' ', '\t']) {
            if let Some(device) = &mut device {
                device.detail(line);
            } else if let Some(usb) = &mut usb {
                usb.detail(line, &mut capture);
            }
        }
    }
    finish(&mut capture, device);
    match capture.devices.is_empty() {
        true => Err(CaptureError::NoCapture { file: file.to_owned() }),
        false => Ok(capture),
    }
}

fn finish(capture: &mut Capture, device: Option<Pci>) {
    let Some(device) = device else { return };
    let Pci { class, vendor, device: id, subsystem: (sv, sd), .. } = device;
    for interface in device.interfaces() {
        let (base, sub) = (class >> 8, class & 0xff);
        capture.add(&format!("pci:v{vendor:08X}d{id:08X}sv{sv:08X}sd{sd:08X}bc{base:02X}sc{sub:02X}i{interface:02X}"));
    }
}

/// `00:1f.2 0106: 8086:2922 (rev 02)`, or `00:1f.2 SATA controller [0106]: Intel Corporation ... [8086:2922] (rev 02)`.
fn pci(line: &str) -> Option<Pci> {
    let (slot, rest) = line.split_once(' ')?;
    let is_slot = slot.contains(':') && slot.bytes().all(|b| b.is_ascii_hexdigit() || b == b':' || b == b'.');
    let slot_has_function = slot.rsplit_once('.').is_some_and(|(_, function)| function.len() == 1);
    if !is_slot || !slot_has_function {
        return None;
    }
    let numeric = |rest: &str| {
        let (class, rest) = rest.split_once(':')?;
        let mut words = rest.split_ascii_whitespace();
        Some((hex(class.trim_start_matches("Class ").trim(), 4)?, ids(words.next()?)?))
    };
    let named = |rest: &str| {
        let class = rest.split("]:").next()?.rsplit('[').next()?;
        let pair = bracketed(rest)?;
        Some((hex(class, 4)?, pair))
    };
    let (class, (vendor, device)) = numeric(rest).or_else(|| named(rest))?;
    let hints = rest.to_ascii_lowercase();
    Some(Pci { class, vendor, device, subsystem: (0, 0), interface: prog_if(rest), hints })
}

/// The last `[8086:2922]`.
fn bracketed(text: &str) -> Option<(u32, u32)> {
    text.rsplit('[').find_map(|part| ids(part.split(']').next()?))
}

/// Of `(prog-if 30 [XHCI])`.
fn prog_if(text: &str) -> Option<u32> {
    hex(text.split("prog-if ").nth(1)?.get(..2)?, 2)
}

/// `8086:2922`.
fn ids(text: &str) -> Option<(u32, u32)> {
    let (vendor, device) = text.split_once(':')?;
    Some((hex(vendor, 4)?, hex(device, 4)?))
}

fn hex(text: &str, digits: usize) -> Option<u32> {
    (text.len() == digits && text.bytes().all(|b| b.is_ascii_hexdigit())).then(|| u32::from_str_radix(text, 16).ok())?
}

impl Pci {
    /// A line below a device: its subsystem, its interface, the driver that has it.
    fn detail(&mut self, line: &str) {
        let line = line.trim();
        if let Some(text) = line.strip_prefix("Subsystem:") {
            self.subsystem = bracketed(text).or_else(|| ids(text.trim())).unwrap_or(self.subsystem);
        }
        self.interface = self.interface.or_else(|| prog_if(line));
        if line.starts_with("Kernel driver in use:") {
            self.hints += &line.to_ascii_lowercase();
        }
    }

    /// The programming interfaces that the device may have.
    fn interfaces(&self) -> Vec<u32> {
        if let Some(interface) = self.interface {
            return vec![interface];
        }
        let says = |word: &str| self.hints.contains(word);
        match self.class {
            USB => {
                let told = [("uhci", 0x00), ("ohci", 0x10), ("ehci", 0x20), ("xhci", 0x30), ("usb4", 0x40)];
                let told: Vec<u32> = told.iter().filter(|(word, _)| says(word)).map(|(_, i)| *i).collect();
                if told.is_empty() { vec![0x00, 0x10, 0x20, 0x30] } else { told }
            }
            class => vec![interface_of(class)],
        }
    }
}

/// What nearly all devices of a class have (PCI Code and ID Assignment Specification): AHCI, NVMe, PCI IDE with bus mastering, a
/// 16550 port, SD with DMA, OHCI for FireWire.
fn interface_of(class: u32) -> u32 {
    match class {
        0x0101 => 0x80,
        0x0106 | 0x0805 => 0x01,
        0x0108 | 0x0700 => 0x02,
        0x0c00 => 0x10,
        _ => 0x00,
    }
}

/// One device of a dump of `lsusb`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Usb {
    vendor: u32,
    product: u32,
    /// Class, subclass and protocol of the interface that is being described.
    interface: [Option<u32>; 3],
}

impl Usb {
    /// `Bus 001 Device 002: ID 8087:0024 Intel Corp. ...`.
    fn new(line: &str) -> Option<Self> {
        let (_, rest) = line.strip_prefix("Bus ")?.split_once(": ID ")?;
        let (vendor, product) = ids(rest.split_ascii_whitespace().next()?)?;
        Some(Self { vendor, product, interface: [None; 3] })
    }

    /// Without `-v` nothing is told of the interfaces: by vendor and product alone drivers of one device are found, those of a
    /// class are not.
    fn add(&self, capture: &mut Capture) {
        self.alias([0; 3], capture);
    }

    fn alias(&self, [class, subclass, protocol]: [u32; 3], capture: &mut Capture) {
        let Self { vendor, product, .. } = self;
        capture.add(&format!(
            "usb:v{vendor:04X}p{product:04X}d0000dc00dsc00dp00ic{class:02X}isc{subclass:02X}ip{protocol:02X}in00"
        ));
    }

    /// `bInterfaceClass 3 Human Interface Device`, and the same of subclass and protocol, in decimal.
    fn detail(&mut self, line: &str, capture: &mut Capture) {
        let mut words = line.split_ascii_whitespace();
        let (Some(key), Some(value)) = (words.next(), words.next()) else { return };
        let place =
            ["bInterfaceClass", "bInterfaceSubClass", "bInterfaceProtocol"].iter().position(|known| *known == key);
        let Some(slot) = place.and_then(|place| self.interface.get_mut(place)) else { return };
        *slot = value.parse().ok().filter(|value: &u32| *value <= 0xff);
        if let [Some(class), Some(subclass), Some(protocol)] = self.interface {
            self.alias([class, subclass, protocol], capture);
            self.interface = [None; 3];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(text: &str) -> Vec<String> {
        parse(text, "t").unwrap().devices.into_iter().collect()
    }

    #[test]
    fn all_three_forms_of_lspci() {
        let n = "00:1f.2 0106: 8086:2922 (rev 02)\n0000:02:00.0 0200: 8086:1533\n";
        let nn = "00:1f.2 SATA controller [0106]: Intel Corporation 82801IR/IO (ICH9) [AHCI mode] [8086:2922] (rev 02) (prog-if 01 [AHCI 1.0])\n\
                  \tSubsystem: Red Hat, Inc. QEMU Virtual Machine [1af4:1100]\n\tKernel driver in use: ahci\n";
        assert_eq!(
            devices(n),
            [
                "pci:v00008086d00001533sv00000000sd00000000bc02sc00i00",
                "pci:v00008086d00002922sv00000000sd00000000bc01sc06i01"
            ]
        );
        assert_eq!(devices(nn), ["pci:v00008086d00002922sv00001AF4sd00001100bc01sc06i01"]);
        assert_eq!(
            devices("00:02.0 Class 0300: 1234:1111\n"),
            ["pci:v00001234d00001111sv00000000sd00000000bc03sc00i00"]
        );
    }

    #[test]
    fn an_interface_that_is_not_told() {
        let told = "00:14.0 USB controller [0c03]: Intel Corporation USB 3.0 xHCI Controller [8086:a12f]\n";
        assert_eq!(devices(told), ["pci:v00008086d0000A12Fsv00000000sd00000000bc0Csc03i30"]);
        let by_driver = "00:1d.0 0c03: 8086:1c26\n\tKernel driver in use: ehci-pci\n";
        assert_eq!(devices(by_driver), ["pci:v00008086d00001C26sv00000000sd00000000bc0Csc03i20"]);
        assert_eq!(devices("00:14.0 0c03: 8086:a12f\n").len(), 4);
    }

    #[test]
    fn usb_with_and_without_interfaces() {
        let plain = "Bus 001 Device 002: ID 8087:0024 Intel Corp. Integrated Rate Matching Hub\n";
        assert_eq!(devices(plain), ["usb:v8087p0024d0000dc00dsc00dp00ic00isc00ip00in00"]);
        let verbose = "Bus 002 Device 003: ID 046d:c31c Logitech, Inc. Keyboard K120\n  Interface Descriptor:\n    \
                       bInterfaceClass         3 Human Interface Device\n    bInterfaceSubClass      1 Boot Interface Subclass\n    \
                       bInterfaceProtocol      1 Keyboard\n";
        assert!(devices(verbose).contains(&"usb:v046DpC31Cd0000dc00dsc00dp00ic03isc01ip01in00".to_owned()));
    }

    #[test]
    fn other_text_is_no_dump() {
        for text in
            ["", "hello\n", "12:30.5 lunch: at noon\n", "\t\n", "00:1f.2 0106: 8086:29\n", "Bus stop: ID card\n"]
        {
            assert!(parse(text, "t").is_err(), "{text:?}");
        }
    }
}
