package cli

import (
	"errors"

	"github.com/spf13/cobra"

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
			if a.json {
				a.event(map[string]any{"event": "keys", "private": "keys/", "public": "trust/", "development": development})
			} else {
				a.printf("private keys: keys/ (keep them)\npublic keys and policy: trust/\n")
			}
			return nil
		},
	}
	gen.Flags().BoolVar(&development, "development", false, "mark the keys as for development only")
	c.AddCommand(gen, a.enrolmentCmd())
	return c
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
