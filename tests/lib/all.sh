# Everything that the test scripts share. Sourced, not run.
# shellcheck shell=bash
lib=$(dirname "${BASH_SOURCE[0]}")
# shellcheck source=lib/common.sh
. "$lib/common.sh"
# shellcheck source=lib/install.sh
. "$lib/install.sh"
# shellcheck source=lib/root.sh
. "$lib/root.sh"
# shellcheck source=lib/kernels.sh
. "$lib/kernels.sh"
# shellcheck source=lib/job.sh
. "$lib/job.sh"
# shellcheck source=lib/enroll.sh
. "$lib/enroll.sh"
