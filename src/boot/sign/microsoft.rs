//! Microsoft's certificates for Secure Boot, as they are published.
//!
//! They belong into db and KEK even where no Windows is wanted: graphics, network and storage cards carry option ROMs
//! signed by Microsoft, and a machine whose screen or boot disk hangs on one may not come up again without
//! (kairos-io/kairos#2377, #2486). Source: "Windows Secure Boot Key Creation and Management Guidance" (Microsoft), which
//! names owner and thumbprints.

use super::guid::Guid;
use super::signature_list::{Signature, SignatureEntry};
use super::variables::Variable;

/// The owner of these entries: Microsoft's.
pub const OWNER: Guid = Guid::new(0x77fa_9abd, 0x0359, 0x4d32, [0xbd, 0x60, 0x28, 0xf4, 0xe7, 0x8f, 0x78, 0x4b]);

/// One of Microsoft's certificates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MicrosoftCertificate {
    /// The common name of the subject.
    pub common_name: &'static str,
    /// Where it belongs.
    pub variable: Variable,
    /// SHA-1 of the DER, hexadecimal: the thumbprint by which Microsoft names it.
    pub sha1: &'static str,
    /// SHA-256 of the DER, hexadecimal.
    pub sha256: &'static str,
    /// The certificate.
    pub der: &'static [u8],
}

/// All of them, KEK first. Both generations: firmware and option ROMs of both are in use, and the one of 2011 goes on
/// being trusted after its last day, at which firmware does not look.
pub const CERTIFICATES: [MicrosoftCertificate; 7] = [
    MicrosoftCertificate {
        common_name: "Microsoft Corporation KEK CA 2011",
        variable: Variable::Kek,
        sha1: "31590bfd89c9d74ed087dfac66334b3931254b30",
        sha256: "a1117f516a32cefcba3f2d1ace10a87972fd6bbe8fe0d0b996e09e65d802a503",
        der: include_bytes!("microsoft/microsoft-corporation-kek-ca-2011.der"),
    },
    MicrosoftCertificate {
        common_name: "Microsoft Corporation KEK 2K CA 2023",
        variable: Variable::Kek,
        sha1: "459ab6fb5e284d272d5e3e6abc8ed663829d632b",
        sha256: "3cd3f0309edae228767a976dd40d9f4affc4fbd5218f2e8cc3c9dd97e8ac6f9d",
        der: include_bytes!("microsoft/microsoft-corporation-kek-2k-ca-2023.der"),
    },
    MicrosoftCertificate {
        common_name: "Microsoft Corporation UEFI CA 2011",
        variable: Variable::Db,
        sha1: "46def63b5ce61cf8ba0de2e6639c1019d0ed14f3",
        sha256: "48e99b991f57fc52f76149599bff0a58c47154229b9f8d603ac40d3500248507",
        der: include_bytes!("microsoft/microsoft-corporation-uefi-ca-2011.der"),
    },
    MicrosoftCertificate {
        common_name: "Microsoft UEFI CA 2023",
        variable: Variable::Db,
        sha1: "b5eeb4a6706048073f0ed296e7f580a790b59eaa",
        sha256: "f6124e34125bee3fe6d79a574eaa7b91c0e7bd9d929c1a321178efd611dad901",
        der: include_bytes!("microsoft/microsoft-uefi-ca-2023.der"),
    },
    MicrosoftCertificate {
        common_name: "Microsoft Option ROM UEFI CA 2023",
        variable: Variable::Db,
        sha1: "3fb39e2b8bd183bf9e4594e72183ca60afcd4277",
        sha256: "e5be3e64c6e66a281457ecdece0d6d0787577aad2a3a0144262c10c14ba8d8f1",
        der: include_bytes!("microsoft/microsoft-option-rom-uefi-ca-2023.der"),
    },
    MicrosoftCertificate {
        common_name: "Microsoft Windows Production PCA 2011",
        variable: Variable::Db,
        sha1: "580a6f4cc4e4b669b9ebdc1b2b3e087b80d0678d",
        sha256: "e8e95f0733a55e8bad7be0a1413ee23c51fcea64b3c8fa6a786935fddcc71961",
        der: include_bytes!("microsoft/microsoft-windows-production-pca-2011.der"),
    },
    MicrosoftCertificate {
        common_name: "Windows UEFI CA 2023",
        variable: Variable::Db,
        sha1: "45a0fa32604773c82433c3b7d59e7466b3ac0c67",
        sha256: "076f1fea90ac29155ebf77c17682f75f1fdd1be196da302dc8461e350a9ae330",
        der: include_bytes!("microsoft/windows-uefi-ca-2023.der"),
    },
];

/// Those that belong into this variable, with Microsoft as their owner.
pub fn entries(variable: Variable) -> impl Iterator<Item = SignatureEntry> {
    CERTIFICATES
        .iter()
        .filter(move |certificate| certificate.variable == variable)
        .map(|certificate| SignatureEntry { owner: OWNER, signature: Signature::X509(certificate.der.to_vec()) })
}

#[cfg(test)]
mod tests {
    use der::Decode;
    use sha2::Digest;

    use super::*;

    #[test]
    fn the_data_are_what_the_constants_say() {
        for certificate in CERTIFICATES {
            assert_eq!(hex::encode(sha1::Sha1::digest(certificate.der)), certificate.sha1);
            assert_eq!(hex::encode(sha2::Sha256::digest(certificate.der)), certificate.sha256);
            let subject = x509_cert::Certificate::from_der(certificate.der).unwrap().tbs_certificate.subject;
            assert!(subject.to_string().starts_with(&format!("CN={},", certificate.common_name)), "{subject}");
        }
        assert_eq!(entries(Variable::Kek).count(), 2);
        assert_eq!(entries(Variable::Db).count(), 5);
        assert_eq!(entries(Variable::Pk).chain(entries(Variable::Dbx)).count(), 0);
    }
}
