package cli

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"holdfast.dev/holdfast/bundles/backup"
	"holdfast.dev/holdfast/overlays"
	"holdfast.dev/holdfast/signing"
)

func (a *app) keysCmd() *cobra.Command {
	c := &cobra.Command{
		Use:     "keys",
		Short:   "Make the keys that sign releases and boot parts",
		Example: "  holdfast keys generate",
	}
	var development bool
	gen := &cobra.Command{
		Use:   "generate",
		Short: "Make release and Secure Boot keys, and the trust policy",
		Long: `Writes private keys into keys/ (never part of a release; keep them out of version
control) and public ones, with the trust policy, into trust/. It replaces nothing.
Among them is the recovery key, which opens the site's backups, unless the site has
one already.

Keys made with --development are marked in the policy, and refused outside zone
official.`,
		Example: "  holdfast keys generate --development",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			site, err := overlays.Load(a.dir)
			if err != nil {
				return err
			}
			if site.Zone != signing.ZoneOfficial && development {
				return errors.Join(errPolicy, errors.New("development keys are refused in zone "+site.Zone))
			}
			if err := signing.GenerateSite(a.dir, site.Name, a.Rand, a.Now(), development); err != nil {
				return err
			}
			if err := backup.GenerateKey(a.dir); err != nil && !errors.Is(err, os.ErrExist) {
				return err
			}
			if a.json {
				a.event(map[string]any{"event": "keys", "private": "keys/", "public": "trust/", "development": development})
			} else {
				a.printf("private keys: keys/ (keep them)\npublic keys and policy: trust/\n")
			}
			return nil
		},
	}
	gen.Flags().BoolVar(&development, "development", false, "mark the keys as for development only")
	c.AddCommand(gen, a.enrolmentCmd(), a.recoveryCmd())
	return c
}

func (a *app) recoveryCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "recovery",
		Short: "Make the key that opens the site's backups",
		Long: `Writes keys/recovery.key, private, and trust/recovery.txt, which is part of the
site's next release: nodes encrypt backups to the public keys in it, one a line. Add
those of others by hand. "keys generate" makes it already: this is for sites made
before. Keep the private key where the site is not.`,
		Example: "  holdfast keys recovery",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := backup.GenerateKey(a.dir); err != nil {
				return err
			}
			if a.json {
				a.event(map[string]any{"event": "keys", "private": backup.PrivateKey, "public": backup.PublicKeys})
			} else {
				a.printf("private key: %s (keep it where the site is not)\npublic key: %s\n", backup.PrivateKey, backup.PublicKeys)
			}
			return nil
		},
	}
}

func (a *app) enrolmentCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "enrolment",
		Short: "Make the files that put a machine under the site's Secure Boot keys",
		Long: `Writes trust/PK.auth, trust/KEK.auth and trust/db.auth from the certificates in
trust/, signed by keys/PK.key and keys/KEK.key. "keys generate" does so already:
this is for a changed certificate, for sites made before, and for certificates of
others in trust/db.d/*.crt, whose programs (such as option ROMs) machines are to
run as well. See docs/secure-boot.md.`,
		Example: "  holdfast keys enrolment",
		Args:    cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if err := signing.WriteEnrolment(a.dir, a.Now()); err != nil {
				return err
			}
			if a.json {
				a.event(map[string]any{"event": "keys", "public": "trust/"})
			} else {
				a.printf("enrolment files: trust/PK.auth, trust/KEK.auth, trust/db.auth\n")
			}
			return nil
		},
	}
}
