"""Problems with a verifier: the seam, data sets, and the two that are generated here."""
